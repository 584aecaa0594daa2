"""What the service talks about. Plain values; no rules, no SQL, no protobuf."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from enum import StrEnum
from typing import Generic, NamedTuple, NewType, TypeVar
from uuid import UUID

T = TypeVar("T")

EXACT = Context(prec=60)
"""Enough digits for 10^18 calls at 9 decimals and any sum of such amounts: nothing is lost."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Return an aware time in microseconds since 1970 (UTC), exactly."""
    return (time - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time, aware, in UTC, so many microseconds after 1970 began; raises OverflowError."""
    return EPOCH + micros * _MICROSECOND


AccountId = NewType("AccountId", str)
"""The account that makes calls and pays for them."""

Month = NewType("Month", date)
"""A calendar month in the billing time zone: its first day."""


def month_number(month: Month) -> int:
    """Return the number of a month, 202611, as its locks and metrics have it."""
    return month.year * 100 + month.month


FROM_THE_BEGINNING = Month(date.min)
"""The month from which the price plan given at activation holds: all of them."""


class CallKind(NamedTuple):
    """What many calls have in common, and are counted by. Ordered as calls are written."""

    account_id: AccountId
    api: str
    result_code: str
    """Empty for success."""
    occurred_on: date
    """The day they occurred, in the billing time zone."""
    month: Month
    """The month of `occurred_on`."""


class Call(NamedTuple):
    """One billable API request. `occurred_on`, `account_id` and `call_id` are its identity.

    A tuple of plain values, because one is made for every call recorded; calls of a kind share that.
    """

    kind: CallKind
    call_id: bytes
    """A UUID: 16 bytes."""
    occurred_us: int
    """When it occurred, in microseconds since 1970 (UTC)."""

    @property
    def account_id(self) -> AccountId:
        """The account that made it."""
        return self.kind.account_id

    @property
    def api(self) -> str:
        """What was called."""
        return self.kind.api

    @property
    def result_code(self) -> str:
        """Its outcome, empty for success."""
        return self.kind.result_code

    @property
    def occurred_on(self) -> date:
        """The day it occurred, in the billing time zone."""
        return self.kind.occurred_on

    @property
    def month(self) -> Month:
        """The month of `occurred_on`."""
        return self.kind.month

    @property
    def occurred_at(self) -> datetime:
        """When it occurred, aware, in UTC."""
        return from_micros(self.occurred_us)

    @property
    def call_id_text(self) -> str:
        """Its call_id as it is written: lower case, 36 characters."""
        digits = self.call_id.hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    @property
    def key(self) -> "CallKey":
        """What makes it this call and no other."""
        return self.kind.occurred_on, self.kind.account_id, self.call_id


CallKey = tuple[date, AccountId, bytes]
"""(occurred_on, account_id, call_id): the identity of a call."""


class Receipt(NamedTuple):
    """What became of a call: it is committed."""

    duplicate: bool
    """It had been committed before."""
    billing_month: Month
    """The month on whose bill it stands."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call as it stands on the books."""

    call: Call
    billing_month: Month
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class RejectedCall:
    """A call that was not recorded, and why."""

    account_id: AccountId
    call_id: str
    occurred_at: datetime
    api: str
    result_code: str
    reason: str
    message: str
    rejected_at: datetime
    retried_at: datetime | None = None
    """When it was last tried to record it after all; reason and message are of that try."""
    recorded_at: datetime | None = None
    """When that was found to have worked."""
    billing_month: Month | None = None
    """The month on whose bill it then stands."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in a currency (ISO 4217)."""

    amount: Decimal
    currency: str


class ServiceState(StrEnum):
    """Whether an account may call."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Whether an account may call, and why not."""

    account_id: AccountId
    state: ServiceState
    reason: str
    """Why it is suspended; empty while it is active."""
    outstanding: Money
    version: int
    """Grows with every change of the account's status."""


@dataclass(frozen=True, slots=True)
class PricePlanAssignment:
    """The price plan of an account from a month on, up to the next assignment."""

    price_plan_id: str
    from_month: Month


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays for calls."""

    account_id: AccountId
    currency: str
    balance: Decimal
    activated_at: datetime
    status: ServiceStatus
    price_plans: tuple[PricePlanAssignment, ...]
    """In ascending order of their months."""


class MonthState(StrEnum):
    """Whether calls can still come in for a month."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class PriceModel(StrEnum):
    """How the price of a call depends on the number of calls."""

    PER_CALL = "PER_CALL"
    GRADUATED = "GRADUATED"
    VOLUME = "VOLUME"


@dataclass(frozen=True, slots=True)
class Tier:
    """The price of calls up to a number."""

    up_to: int | None
    """The last call of a month, counted from 1, that falls in this tier; None: no upper end."""
    unit_price: Decimal


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """The price of one api."""

    api: str
    model: PriceModel
    tiers: tuple[Tier, ...]
    """Ascending, the last one without an upper end. One tier for PER_CALL."""
    free_calls: int = 0
    uncharged_result_codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PricePlan:
    """What calls of an account cost, at most one price per api."""

    price_plan_id: str
    version: int
    currency: str
    prices: tuple[ApiPrice, ...]

    def price_of(self, api: str) -> ApiPrice | None:
        """Return the price of `api`, None if the plan has none."""
        for price in self.prices:
            if price.api == api:
                return price
        return None


class Usage(NamedTuple):
    """Counted calls of one account that stand on one month's bill."""

    occurred_on: date
    api: str
    result_code: str
    calls: int


class MonthUsage(NamedTuple):
    """Counted calls of one account on one month's bill, by the month they occurred in."""

    account_id: AccountId
    occurred_month: Month
    api: str
    result_code: str
    calls: int
    earlier_calls: int
    """Calls of the same account, api, result code and month that stand on earlier bills."""


class BillLinePart(NamedTuple):
    """Calls of a line that fall in the same tier."""

    quantity: int
    unit_price: Decimal
    tier_from: int
    """The first charged call of a month that falls in the tier, counted from 1; 0: it was not kept."""
    tier_up_to: int | None
    """The last one; None: no upper end."""

    @property
    def exact_amount(self) -> Decimal:
        """What they cost together, not rounded."""
        return EXACT.multiply(Decimal(self.quantity), self.unit_price)


class BillLine(NamedTuple):
    """The calls of one api in one month, rated. A tuple, because a close makes several for every account."""

    api: str
    occurred_month: Month
    calls: int
    charged_calls: int
    parts: tuple[BillLinePart, ...]
    exact_amount: Decimal
    """The sum of the parts, before rounding."""
    amount: Decimal
    """`exact_amount` rounded once to the currency's minor unit, half up."""
    price_plan_id: str
    price_plan_version: int


class BillState(StrEnum):
    """ISSUED → PAID, or ISSUED → OVERDUE → PAID."""

    ISSUED = "ISSUED"
    PAID = "PAID"
    OVERDUE = "OVERDUE"


@dataclass(frozen=True, slots=True)
class Bill:
    """A month's bill of an account."""

    account_id: AccountId
    month: Month
    currency: str
    state: BillState
    total: Decimal
    deducted: Decimal
    issued_at: datetime
    due_date: date
    lines: tuple[BillLine, ...] = field(default=())
    calls_digest: bytes | None = None
    """The SHA-256 of its calls; None: it was issued before there were digests."""

    @property
    def outstanding(self) -> Decimal:
        """What is still to be deducted."""
        return self.total - self.deducted


class EntryKind(StrEnum):
    """Why money moved."""

    PAYMENT = "PAYMENT"
    """In: the customer paid."""
    DEDUCTION = "DEDUCTION"
    """Out: for a bill."""


class LedgerEntry(NamedTuple):
    """Something that moved on an account's balance."""

    kind: EntryKind
    amount: Decimal
    """What it adds to the balance: positive for a payment, negative for a deduction."""
    payment_id: str | None = None
    bill_month: Month | None = None


@dataclass(frozen=True, slots=True)
class ApiUsage:
    """The usage of one api in a month."""

    api: str
    calls: int
    charged_calls: int
    days: tuple[tuple[date, int], ...]
    """(day, calls), ascending."""


@dataclass(frozen=True, slots=True)
class MonthlyUsage:
    """Every call of an account that stands, or will stand, on a month's bill."""

    account_id: AccountId
    month: Month
    state: MonthState
    total_calls: int
    charged_calls: int
    carried_calls: int
    apis: tuple[ApiUsage, ...]
    charges: Money | None
    """None while an api in use has no price."""
    unrated_apis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClosedMonth:
    """The bills of a month."""

    bills_issued: int
    totals: tuple[Money, ...]
    """One per currency."""
    unrated_accounts: tuple[AccountId, ...]
    """The first of them, sorted."""
    already_closed: bool


@dataclass(frozen=True, slots=True)
class MonthProgress:
    """What has become of a month."""

    closed_at: datetime | None
    """None: it is open."""
    billed_at: datetime | None
    """When every account with usage had its bill; None: not yet."""
    bills_issued: int
    accounts: int
    """All, with and without usage."""
    accounts_looked_at: int
    """Those up to the last one with a bill; the close goes through them in the order of their ids."""


class Debtor(NamedTuple):
    """An account with bills that are not paid."""

    account_id: AccountId
    oldest_month: Month
    """That of the oldest one."""


class RunFailure(NamedTuple):
    """What a monthly run could not do."""

    month: Month
    """The month that was not closed, or that of the oldest bill that was not deducted."""
    account_id: AccountId
    """Whose bills were not deducted; empty: the month was not closed."""
    message: str


@dataclass(slots=True)
class MonthlyRunRecord:
    """What a monthly run did; it grows while the run goes on."""

    run_id: int
    run_on: date
    """The day whose work it does."""
    replica: str
    """Which process does it."""
    started_at: datetime
    finished_at: datetime | None = None
    """None: it goes on, or was killed."""
    months: list[Month] = field(default_factory=list)
    """Closed, or billed for further accounts."""
    bills_issued: int = 0
    issued: dict[str, Decimal] = field(default_factory=dict)
    """The sum of these bills, per currency."""
    bills_paid: int = 0
    deducted: dict[str, Decimal] = field(default_factory=dict)
    """What was taken from balances, per currency."""
    accounts_suspended: int = 0
    accounts_unrated: int = 0
    """Accounts, in each of the months, whose calls have no price."""
    failures: int = 0
    failed: list[RunFailure] = field(default_factory=list)
    """The first of them."""


class AuditKind(StrEnum):
    """What the audit makes sure of."""

    CALLS = "CALLS"
    USAGE = "USAGE"
    PLACES = "PLACES"
    BILL_CALLS = "BILL_CALLS"
    BILL_MONTHS = "BILL_MONTHS"
    ISSUED_BILLS = "ISSUED_BILLS"
    DIGESTS = "DIGESTS"
    LINES = "LINES"
    RATING = "RATING"
    BILLS = "BILLS"
    ENTRIES = "ENTRIES"
    BALANCES = "BALANCES"
    STATES = "STATES"
    PRICES = "PRICES"
    REJECTED_CALLS = "REJECTED_CALLS"


class Difference(NamedTuple):
    """Something on the books that is not as it should be."""

    account_id: AccountId
    kind: AuditKind
    found: str
    """How it is."""
    expected: str
    """How it should be."""


class AccountRange(NamedTuple):
    """Accounts one after the other. Those that have rows, but were never activated, are among them."""

    first: AccountId = AccountId("")
    """From this one on."""
    end: AccountId = AccountId("\U0010ffff")
    """To before this one; what stands here comes after all ids."""

    @classmethod
    def of(cls, account_id: AccountId) -> "AccountRange":
        """Return the range of one account."""
        return cls(account_id, AccountId(account_id + "\x01"))


class RecordedCalls(NamedTuple):
    """How many calls of an account are recorded."""

    calls: int
    dropped: int
    """Those of them whose raw calls were archived and dropped: only their counts are left."""


class AuditScope(NamedTuple):
    """What is read of the books in one part of an audit, and by which rules."""

    accounts: AccountRange
    accounts_max: int
    """So many of them, the first ones."""
    months: tuple[date, date]
    """The first and the last month whose bills are looked at, and the calls on them."""
    today: date
    """The day it is in the billing time zone."""
    start_of: Callable[[date], datetime]
    """Tells when a day begins in the billing time zone."""
    minor_units: Mapping[str, int]
    """The decimals of each currency."""


@dataclass(slots=True)
class AuditSum:
    """What an audit has come to so far."""

    accounts: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    """How many are recorded, those of them that were dropped, and where they are: billed, carried, open, unrated."""
    differences: Counter[str] = field(default_factory=Counter)
    """How many were found, by kind."""

    @property
    def clean(self) -> bool:
        """Nothing differs."""
        return not self.differences.total()


@dataclass(slots=True)
class AuditPass:
    """An audit of all accounts, in steps; it grows while it goes on."""

    pass_id: int
    started_at: datetime
    resume_at: datetime
    """No replica goes on before that."""
    finished_at: datetime | None = None
    next_account: AccountId = AccountId("")
    found: AuditSum = field(default_factory=AuditSum)


@dataclass(frozen=True, slots=True)
class SettlingAccount:
    """An account, and what deducting its bills has to look at."""

    account_id: AccountId
    currency: str
    balance: Decimal
    state: ServiceState
    unpaid_bills: tuple[Bill, ...]
    """Oldest first, without lines."""


@dataclass(frozen=True, slots=True)
class Booking:
    """What changes on an account at once."""

    account_id: AccountId
    entries: tuple[LedgerEntry, ...]
    """What is appended to its ledger."""
    bills: tuple[Bill, ...]
    """Those that change, as they are then."""
    balance: Decimal
    state: ServiceState


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and where the next part begins."""

    items: tuple[T, ...]
    next_page_token: str
    """Empty: there are no more."""


class SenderState(NamedTuple):
    """What is known of a client that numbers its calls."""

    sender_id: UUID
    arrived: tuple[tuple[int, int], ...]
    """The numbers that have arrived, as half-open ranges."""
    numbers: int
    """How many numbers it says it has given out."""
    seen_at: datetime
    closed: bool
    """It said goodbye."""


class Act(NamedTuple):
    """Something that changes by somebody's decision."""

    begun_at: datetime
    caller: str
    role: str
    peer: str
    """Where the request came from, as gRPC writes it."""
    method: str
    account_id: AccountId | None
    """None: it is not about one account."""
    request: str
    """A JSON document."""


class NotedAct(NamedTuple):
    """An act, and how it ended."""

    act_id: int
    act: Act
    ended_at: datetime | None
    outcome: str | None
    """OK, or the reason in the error. None: it is not known, or the act is under way."""
