"""What the reference model talks about: plain values."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction

from tests.model.reference_rating import Line

BEGINNING = date.min
"""The month from which the price plan given at activation holds."""


def first_of(day: date) -> date:
    return day.replace(day=1)


def month_after(month: date) -> date:
    return first_of(month + timedelta(days=31))


@dataclass(frozen=True)
class Call:
    """A call as it is sent. `call_id` is a number here."""

    account_id: str
    call_id: int
    at: datetime
    api: str = "A"
    code: str = ""


@dataclass(frozen=True)
class Recorded:
    """A call that is on the books."""

    call: Call
    day: date
    billing_month: date


@dataclass
class Rejected:
    """A call that is not, or was not at first."""

    call: Call
    reason: str
    billing_month: date | None = None
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Bill:
    """A month's bill."""

    month: date
    currency: str
    state: str
    total: Fraction
    deducted: Fraction
    due: date
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Usage:
    """What an account has used in a month; `apis` are (api, calls, charged, ((day, calls), …))."""

    closed: bool
    total: int
    charged: int
    carried: int
    apis: tuple[tuple[str, int, int, tuple[tuple[date, int], ...]], ...]
    charges: Fraction | None
    unrated: tuple[str, ...]


@dataclass
class Account:
    """Who pays. The ledger has (amount, what for): positive for payments, negative for deductions."""

    account_id: str
    currency: str
    plans: dict[date, str]
    ledger: list[tuple[Fraction, str]] = field(default_factory=list)
    bills: dict[date, Bill] = field(default_factory=dict)

    @property
    def balance(self) -> Fraction:
        return sum((amount for amount, _ in self.ledger), Fraction(0))

    @property
    def unpaid(self) -> list[Bill]:
        return [bill for _, bill in sorted(self.bills.items()) if bill.state != "PAID"]

    @property
    def outstanding(self) -> Fraction:
        return sum((bill.total - bill.deducted for bill in self.unpaid), Fraction(0))

    @property
    def overdue(self) -> list[date]:
        return [bill.month for bill in self.unpaid if bill.state == "OVERDUE"]


@dataclass
class Closed:
    """What closing a month, or what a dry run of it, came to."""

    bills: int
    totals: dict[str, Fraction]
    unrated: list[str]
    already: bool


@dataclass
class Run:
    """What a monthly run did."""

    months: list[date] = field(default_factory=list)
    bills: int = 0
    issued: dict[str, Fraction] = field(default_factory=dict)
    paid: int = 0
    suspended: int = 0
    unrated: int = 0
    deducted: dict[str, Fraction] = field(default_factory=dict)
    """Both by currency; what comes to nothing is left out."""
