"""The audit: recomputes the books from the raw calls and the ledger, and says what differs."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from metering.billing.currencies import MINOR_UNITS
from metering.billing.months import format_month
from metering.billing.rating import rate
from metering.model import AccountId, BillLine, Month, MonthUsage, PricePlan

CHECKS = {
    "audit_usage": "usage is the number of raw calls",
    "audit_calls": "calls stand on the bill of their month or a later one",
    "audit_bill_calls": "bills hold the usage of their month",
    "audit_bill_months": "bills are of closed months",
    "audit_bill_lines": "lines are quantity times price, rounded once",
    "audit_bills": "bills are the sum of their lines and of their deductions",
    "audit_balances": "balances are the sum of the ledger",
    "audit_states": "accounts are suspended while a bill is overdue, and only then",
}
"""The queries that find differences, and what each makes sure of."""
RATING = "lines are what rating makes of the usage and the price plan"
"""What the check that is no query makes sure of."""


class Difference(Protocol):
    """Something on the books that is not as it should be."""

    @property
    def account_id(self) -> str:
        """Whose."""

    @property
    def found(self) -> str:
        """How it is."""

    @property
    def expected(self) -> str:
        """How it should be."""


class RatedLine(Protocol):
    """A bill line, and what it was rated from."""

    @property
    def account_id(self) -> AccountId:
        """Whose."""

    @property
    def month(self) -> Month:
        """Of which month's bill."""

    @property
    def line(self) -> BillLine:
        """As it stands on the bill."""

    @property
    def usage(self) -> Sequence[MonthUsage]:
        """What is counted for it now."""

    @property
    def plan(self) -> PricePlan | None:
        """The plan it names; None if there is none, or the account has another one in the month of the calls."""


class WrongLine(NamedTuple):
    """A bill line that rating would not have made."""

    account_id: AccountId
    found: str
    expected: str


class Reader(Protocol):
    """The books as they were at one moment."""

    async def differences(self, check: str, minor_units: Mapping[str, int]) -> Sequence[Difference]:
        """Return what one check finds."""

    def rated_lines(self) -> AsyncIterator[RatedLine]:
        """Return every bill line."""

    async def totals(self) -> Mapping[str, int]:
        """Return how many calls are recorded, and where they are."""


class Books(Protocol):
    """Where the books are."""

    def read(self) -> AbstractAsyncContextManager[Reader]:
        """Hold one snapshot of them."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found."""

    differences: dict[str, Sequence[Difference]]
    """By check."""
    totals: Mapping[str, int]
    """recorded, and where those are: billed, carried, open, unrated."""

    @property
    def clean(self) -> bool:
        """Nothing differs, and every recorded call is in its place."""
        placed = sum(calls for name, calls in self.totals.items() if name != "recorded")
        return not any(self.differences.values()) and placed == self.totals["recorded"]


async def audit(books: Books, progress: Callable[[str], None] | None = None) -> Audit:
    """Check everything, in one snapshot of the books.

    Args:
        books: where they are.
        progress: is told what each check makes sure of, before it begins.

    Raises:
        DatabaseUnavailableError: the books cannot be read.

    """
    async with books.read() as reader:
        differences: dict[str, Sequence[Difference]] = {}
        for check, assurance in CHECKS.items():
            if progress:
                progress(assurance)
            differences[assurance] = await reader.differences(check, MINOR_UNITS)
        if progress:
            progress(RATING)
        differences[RATING] = [wrong async for rated in reader.rated_lines() if (wrong := check_rating(rated))]
        return Audit(differences, await reader.totals())


def check_rating(rated: RatedLine) -> WrongLine | None:
    """Rate a line once more, with the code that bills are made with; return how it differs, None if it does not."""
    lines, _ = rate(rated.usage, lambda _: rated.plan)
    if lines == (rated.line,):
        return None
    name = f"{rated.line.api} of {format_month(rated.line.occurred_month)} on the bill of {format_month(rated.month)}"
    return WrongLine(
        rated.account_id,
        f"{name}: {describe(rated.line)}",
        "; ".join(map(describe, lines)) or "no line: no usage, or not a price plan of the account",
    )


def describe(line: BillLine) -> str:
    """Return how a line came about."""
    parts = " + ".join(f"{part.quantity} at {part.unit_price:f}" for part in line.parts) or "nothing charged"
    return f"{parts} by {line.price_plan_id} version {line.price_plan_version}, {line.amount:f}"
