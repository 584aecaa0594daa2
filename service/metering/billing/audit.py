"""The audit: recomputes the books from the raw calls and the ledger, and says what differs, account by account."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol

from metering.billing.audit_lines import RatedLine, check_line
from metering.billing.currencies import MINOR_UNITS
from metering.billing.months import BillingCalendar
from metering.clock import Clock
from metering.errors import retry_conflicts
from metering.model import AccountId, AccountRange, AuditKind, AuditScope, AuditSum, Difference, RecordedCalls

ACCOUNTS_PER_PART = 1_000
"""Accounts that are read in one snapshot: what is held in memory, and for how long vacuum is held back."""
CLOCKS_APART_MAX = timedelta(minutes=5)
"""A replica whose clock is ahead by so much may have made a bill overdue already."""

ASSURANCES: Mapping[AuditKind, str] = {
    AuditKind.CALLS: "calls are of their day and an account, on the bill of their month or the next open one",
    AuditKind.USAGE: "usage is the number of raw calls",
    AuditKind.PLACES: "recorded calls are billed, carried, open, or closed without a price",
    AuditKind.BILL_CALLS: "bills hold the usage of their month",
    AuditKind.BILL_MONTHS: "bills are of closed months",
    AuditKind.ISSUED_BILLS: "no bill that was issued is missing",
    AuditKind.DIGESTS: "digests are those of the raw calls on the bill",
    AuditKind.LINES: "lines are quantity times price, rounded once",
    AuditKind.RATING: "lines are what rating makes of the usage and the price plan",
    AuditKind.BILLS: "bills are the sum of their lines and of their deductions, paid or overdue when they should be",
    AuditKind.ENTRIES: "entries are payments and deductions, each once, and never take more than there is",
    AuditKind.BALANCES: "balances are the sum of the ledger",
    AuditKind.STATES: "accounts are suspended while a bill is overdue, and only then",
    AuditKind.PRICES: "accounts have price plans that exist, in their currency",
    AuditKind.REJECTED_CALLS: "rejected calls that were recorded later are among the raw calls",
}
"""What each check makes sure of, in the order of the way from a call to the money."""
OF_A_MONTH = frozenset(
    {
        AuditKind.CALLS,
        AuditKind.USAGE,
        AuditKind.PLACES,
        AuditKind.BILL_CALLS,
        AuditKind.BILL_MONTHS,
        AuditKind.ISSUED_BILLS,
        AuditKind.DIGESTS,
        AuditKind.LINES,
        AuditKind.RATING,
        AuditKind.BILLS,
    }
)
"""What can be said of one month's bills. The rest is of an account as a whole."""


ALL_ACCOUNTS = AccountRange()
ALL_MONTHS = (date.min, date.max)


class Reader(Protocol):
    """Some accounts on the books, as they were at one moment."""

    @property
    def accounts(self) -> int:
        """How many there are."""

    @property
    def next_account(self) -> AccountId | None:
        """The first one that is not among them; None: there are no more."""

    async def calls(self) -> tuple[Mapping[AccountId, RecordedCalls], Sequence[Difference]]:
        """Return how many calls each account has, and what differs: CALLS and USAGE."""

    async def places(self) -> Mapping[AccountId, Mapping[str, int]]:
        """Return where each account's calls are by the bills and by usage: billed, carried, open, unrated."""

    async def differences(self, kind: AuditKind) -> Sequence[Difference]:
        """Return what differs, for a kind that a query alone can tell."""

    async def large_digests(self) -> Sequence[Difference]:
        """Return what differs of the digests of bills with very many calls: DIGESTS."""

    def rated_lines(self) -> AsyncIterator[RatedLine]:
        """Return every bill line."""


class Books(Protocol):
    """Where the books are."""

    def read(self, scope: AuditScope) -> AbstractAsyncContextManager[Reader]:
        """Hold one snapshot of some accounts."""


@dataclass(frozen=True, slots=True)
class AuditedAccounts:
    """What was found about some accounts."""

    accounts: int
    next_account: AccountId | None
    """The first one that comes after them; None: these were the last."""
    calls: Counter[str]
    """How many are recorded, those of them that were dropped, and where they are: billed, carried, open, unrated."""
    differences: list[Difference]
    """In the order of the accounts."""

    def add_to(self, found: AuditSum) -> None:
        """Add it to what was found about others."""
        found.accounts += self.accounts
        found.calls.update(self.calls)
        found.differences.update(difference.kind for difference in self.differences)


class Auditor:
    """Audits some accounts at a time, each part in one snapshot, so that what goes on meanwhile is no difference.

    Args:
        books: where they are.
        calendar: of the billing time zone.
        clock: the present time.

    """

    def __init__(self, books: Books, calendar: BillingCalendar, clock: Clock) -> None:
        self._books = books
        self._calendar = calendar
        self._clock = clock

    async def audit(
        self,
        accounts: AccountRange = ALL_ACCOUNTS,
        months: tuple[date, date] = ALL_MONTHS,
        accounts_max: int = ACCOUNTS_PER_PART,
    ) -> AsyncGenerator[AuditedAccounts, None]:
        """Audit accounts, `accounts_max` of them at a time; raises DatabaseUnavailableError.

        Args:
            accounts: which.
            months: the first and the last one whose bills are looked at, and the calls on them. Unless these are all,
                nothing is said of what is of an account as a whole: see OF_A_MONTH.
            accounts_max: how many are read in one snapshot.

        """
        first: AccountId | None = accounts.first
        while first is not None:
            today = self._calendar.today(self._clock.now() + CLOCKS_APART_MAX)
            rest = accounts._replace(first=first)
            part = await self._audit(
                AuditScope(rest, accounts_max, months, today, self._calendar.start_of, MINOR_UNITS)
            )
            yield part
            first = part.next_account

    @retry_conflicts
    async def _audit(self, scope: AuditScope) -> AuditedAccounts:
        async with self._books.read(scope) as reader:
            recorded, differences = await reader.calls()
            places = await reader.places()
            found = [*differences, *check_places(recorded, places), *await reader.large_digests()]
            for kind in ASSURANCES:
                if scope.months == ALL_MONTHS or kind in OF_A_MONTH:
                    found += await reader.differences(kind)
            found += [difference async for line in reader.rated_lines() for difference in check_line(line)]
            calls = Counter(
                recorded=sum(each.calls for each in recorded.values()),
                dropped=sum(each.dropped for each in recorded.values()),
            )
            for of_account in places.values():
                calls.update(of_account)
            return AuditedAccounts(reader.accounts, reader.next_account, calls, sorted(found))


def check_places(
    recorded: Mapping[AccountId, RecordedCalls], places: Mapping[AccountId, Mapping[str, int]]
) -> Iterator[Difference]:
    """Return the accounts whose recorded calls are not those that are billed, carried, open or unrated: promise P4."""
    for account_id in recorded.keys() | places.keys():
        calls = recorded[account_id].calls if account_id in recorded else 0
        of_account = places.get(account_id, {})
        if calls != sum(of_account.values()):
            placed = " + ".join(f"{number} {place}" for place, number in of_account.items() if number)
            yield Difference(account_id, AuditKind.PLACES, placed or "nothing", f"{calls} recorded calls")
