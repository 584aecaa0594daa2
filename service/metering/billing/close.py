"""CloseMonth: seal a month, then issue the bills of all accounts with calls in it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from metering.billing.months import BillingCalendar, due_date, format_month
from metering.billing.rating import rate
from metering.clock import Clock
from metering.errors import MeteringError, Reason, retry_conflicts
from metering.model import AccountId, Bill, BillState, ClosedMonth, Money, Month, MonthUsage, PricePlan

ACCOUNTS_PER_CHUNK = 2_000
"""Accounts looked at in one transaction: what is done again after a crash, and what is held in memory."""
UNRATED_ACCOUNTS_MAX = 1_000
"""Unrated accounts that are named."""

Progress = Callable[[int, int], None]
"""Is told, again and again, how many accounts were looked at and how many bills were issued."""


class UnbilledAccounts(Protocol):
    """Some accounts, in one transaction, and what they have to be billed for in a month."""

    @property
    def account_ids(self) -> Sequence[AccountId]:
        """Sorted; empty: there are no more."""

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

    def unbilled_accounts(
        self, month: Month, after: AccountId, accounts: int
    ) -> AbstractAsyncContextManager[UnbilledAccounts]:
        """Look at the next accounts in one transaction, while nobody else bills that month."""

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        """Return how many bills a month has, and their totals, one per currency."""


class MonthCloser:
    """Closes months. May be repeated, killed, and done by several at once: each account gets one bill for a month.

    Args:
        book: where months are closed.
        calendar: of the billing time zone.
        clock: the present time.
        count_issued: is told of bills, some at a time, once they are committed.

    """

    def __init__(
        self,
        book: BillBook,
        calendar: BillingCalendar,
        clock: Clock,
        count_issued: Callable[[int], object] | None = None,
    ) -> None:
        self._book = book
        self._calendar = calendar
        self._clock = clock
        self._count_issued = count_issued

    async def close(self, month: Month, *, dry_run: bool = False, progress: Progress | None = None) -> ClosedMonth:
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
        bills, totals = await self._book.month_bills(month)
        would_be = {money.currency: money.amount for money in totals}
        unrated: list[AccountId] = []
        after, accounts = AccountId(""), 0
        while chunk := await self._bill_next_accounts(month, after, now, dry_run=dry_run):
            account_ids, issued, unrated_now = chunk
            after = account_ids[-1]
            accounts += len(account_ids)
            bills += len(issued)
            if self._count_issued and not dry_run:
                self._count_issued(len(issued))
            for bill in issued:
                would_be[bill.currency] = would_be.get(bill.currency, Decimal(0)) + bill.total
            unrated += unrated_now[: UNRATED_ACCOUNTS_MAX - len(unrated)]
            if progress:
                progress(accounts, bills)
        if not dry_run:
            # Another CloseMonth may have issued some of them meanwhile.
            bills, totals = await self._book.month_bills(month)
            would_be = {money.currency: money.amount for money in totals}
        amounts = tuple(Money(amount, currency) for currency, amount in sorted(would_be.items()))
        return ClosedMonth(bills, amounts, tuple(unrated), already_closed)

    @retry_conflicts
    async def _bill_next_accounts(
        self, month: Month, after: AccountId, now: datetime, *, dry_run: bool
    ) -> tuple[Sequence[AccountId], list[Bill], list[AccountId]] | None:
        """Bill some accounts in one transaction; return them, their bills, and those without a price."""
        async with self._book.unbilled_accounts(month, after, ACCOUNTS_PER_CHUNK) as accounts:
            if not accounts.account_ids:
                return None
            bills, unrated = rate_accounts(accounts, month, now)
            if bills and not dry_run:
                await accounts.issue(bills)
            return accounts.account_ids, bills, unrated


def rate_accounts(accounts: UnbilledAccounts, month: Month, issued_at: datetime) -> tuple[list[Bill], list[AccountId]]:
    """Return the bills for accounts' usage, and the accounts that cannot be billed because an api has no price."""
    bills: list[Bill] = []
    unrated: list[AccountId] = []
    due = due_date(month)
    for account_id, usage in groupby(accounts.usage, attrgetter("account_id")):
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
