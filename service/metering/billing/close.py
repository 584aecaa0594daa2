"""CloseMonth: seal a month, then issue the bills of all accounts with calls in it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from metering.billing.lanes import in_lanes
from metering.billing.months import BillingCalendar, due_date, format_month
from metering.billing.rating import rate
from metering.clock import Clock
from metering.errors import MeteringError, Reason, retry_conflicts
from metering.loop_load import next_turn
from metering.model import AccountId, Bill, BillState, ClosedMonth, Money, Month, MonthUsage, PricePlan

ACCOUNTS_PER_CHUNK = 1_000
"""Accounts looked at in one transaction: what is done again after a crash, and what is held in memory."""
ACCOUNTS_PER_SLICE = 25
"""Accounts rated in one go, in about a millisecond. Calls that are just being recorded wait for no longer."""
UNRATED_ACCOUNTS_MAX = 1_000
"""Unrated accounts that are named."""


class UnbilledAccounts(Protocol):
    """Some accounts, in one transaction, and what they have to be billed for in a month."""

    @property
    def currencies(self) -> Mapping[AccountId, str]:
        """Of each account."""

    @property
    def usage(self) -> Sequence[MonthUsage]:
        """Of those that have calls but no bill, in order of the accounts."""

    def plan(self, account_id: AccountId, month: Month) -> PricePlan | None:
        """Return the price plan that an account has in a month."""

    async def issue(self, bills: Sequence[Bill]) -> None:
        """Issue bills of these accounts."""


class BillBook(Protocol):
    """Where months are closed and bills are kept."""

    async def seal(self, month: Month, now: datetime) -> bool:
        """Close a month to calls; False: it was closed."""

    async def month_is_closed(self, month: Month) -> bool:
        """Tell whether a month is closed."""

    def account_ids(self, chunk: int) -> AsyncIterator[Sequence[AccountId]]:
        """Return the ids of all accounts, at most `chunk` at a time, sorted."""

    def unbilled_accounts(
        self, month: Month, account_ids: Sequence[AccountId], *, locked: bool
    ) -> AbstractAsyncContextManager[UnbilledAccounts]:
        """Look at accounts in one transaction; with `locked`, which issuing bills needs, while nobody else does."""

    async def note_billed(self, month: Month, now: datetime) -> None:
        """Note that every account with usage in a month, which is closed, has its bill."""

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        """Return how many bills a month has, and their totals, one per currency."""


class MonthCloser:
    """Closes months. May be repeated, killed, and done by several at once: each account gets one bill for a month.

    Args:
        book: where months are closed.
        calendar: of the billing time zone.
        clock: the present time.
        count_issued: is told of bills, some at a time, once they are committed.
        give_way: is awaited between any two pieces of work that take a millisecond or so.

    """

    def __init__(
        self,
        book: BillBook,
        calendar: BillingCalendar,
        clock: Clock,
        count_issued: Callable[[int], object] | None = None,
        give_way: Callable[[], Awaitable[object]] = next_turn,
    ) -> None:
        self._book = book
        self._calendar = calendar
        self._clock = clock
        self._count_issued = count_issued
        self._give_way = give_way

    async def close(self, month: Month, *, dry_run: bool = False) -> ClosedMonth:
        """Seal a month and issue its bills; with `dry_run`, only tell what that would come to.

        Raises:
            MeteringError: MONTH_NOT_ENDED.

        """
        now = self._clock.now()
        if not self._calendar.has_ended(month, now):
            zone = self._calendar.zone_name
            raise MeteringError(Reason.MONTH_NOT_ENDED, f"month: {format_month(month)} has not ended in {zone}")
        if dry_run:
            already_closed = await self._book.month_is_closed(month)
        else:
            already_closed = not await self._book.seal(month, now)
        billed = _Billed(*await self._book.month_bills(month))
        await self._bill_all(month, now, billed, dry_run=dry_run)
        if not dry_run:
            if not billed.unrated:
                await self._book.note_billed(month, self._clock.now())
            # Another CloseMonth may have issued some of them meanwhile.
            billed = _Billed(*await self._book.month_bills(month), billed.unrated)
        return ClosedMonth(billed.bills, billed.totals(), tuple(billed.unrated), already_closed)

    async def _bill_all(self, month: Month, now: datetime, billed: "_Billed", *, dry_run: bool) -> None:
        """Bill all accounts."""

        async def bill(account_ids: Sequence[AccountId]) -> None:
            issued, unrated = await self._bill_accounts(month, account_ids, now, dry_run=dry_run)
            billed.add(issued, unrated)
            if self._count_issued and not dry_run:
                self._count_issued(len(issued))

        await in_lanes(self._book.account_ids(ACCOUNTS_PER_CHUNK), bill)

    @retry_conflicts
    async def _bill_accounts(
        self, month: Month, account_ids: Sequence[AccountId], now: datetime, *, dry_run: bool
    ) -> tuple[list[Bill], list[AccountId]]:
        """Bill accounts in one transaction; return their bills, and those without a price."""
        async with self._book.unbilled_accounts(month, account_ids, locked=not dry_run) as accounts:
            bills, unrated = await rate_accounts(accounts, month, now, self._give_way)
            if bills and not dry_run:
                await accounts.issue(bills)
            return bills, unrated


class _Billed:
    """What a close has come to so far."""

    def __init__(self, bills: int, totals: Sequence[Money], unrated: Sequence[AccountId] = ()) -> None:
        self.bills = bills
        self.unrated = list(unrated)
        """The first of them, sorted."""
        self._totals = {money.currency: money.amount for money in totals}

    def add(self, bills: Sequence[Bill], unrated: Sequence[AccountId]) -> None:
        """Count bills, and accounts that have no price."""
        self.bills += len(bills)
        for bill in bills:
            self._totals[bill.currency] = self._totals.get(bill.currency, Decimal(0)) + bill.total
        if unrated:
            self.unrated = sorted([*self.unrated, *unrated])[:UNRATED_ACCOUNTS_MAX]

    def totals(self) -> tuple[Money, ...]:
        """Return the sum of the bills, per currency."""
        return tuple(Money(amount, currency) for currency, amount in sorted(self._totals.items()))


async def rate_accounts(
    accounts: UnbilledAccounts,
    month: Month,
    issued_at: datetime,
    give_way: Callable[[], Awaitable[object]] = next_turn,
) -> tuple[list[Bill], list[AccountId]]:
    """Return the bills for accounts' usage, and the accounts that cannot be billed because an api has no price.

    `give_way` is awaited between any two pieces of work that take a millisecond or so.
    """
    bills: list[Bill] = []
    unrated: list[AccountId] = []
    due = due_date(month)
    for number, (account_id, usage) in enumerate(groupby(accounts.usage, attrgetter("account_id"))):
        if number % ACCOUNTS_PER_SLICE == 0:
            await give_way()
        lines, unrated_apis = rate(usage, partial(accounts.plan, account_id))
        if unrated_apis:
            unrated.append(account_id)
            continue
        total = sum((line.amount for line in lines), Decimal(0))
        bills.append(
            Bill(
                account_id=account_id,
                month=month,
                currency=accounts.currencies[account_id],
                # A bill that comes to nothing is paid from the start.
                state=BillState.ISSUED if total else BillState.PAID,
                total=total,
                deducted=Decimal(0),
                issued_at=issued_at,
                due_date=due,
                lines=lines,
            )
        )
    return bills, unrated
