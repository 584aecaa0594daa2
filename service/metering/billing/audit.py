"""The audit: recomputes the books from the raw calls and the ledger, and says what differs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from metering.billing.currencies import MINOR_UNITS

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


class Reader(Protocol):
    """The books as they were at one moment."""

    async def differences(self, check: str, minor_units: Mapping[str, int]) -> Sequence[Difference]:
        """Return what one check finds."""

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
        return Audit(differences, await reader.totals())
