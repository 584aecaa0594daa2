"""The monthly run: on day 1 to 3, last month is closed and its bills are deducted. No human has to remember it.

On day 1 and 2, whoever is short is left alone. On day 3, the due date, Deduct suspends who still is.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from metering.billing.close import MonthCloser
from metering.billing.deduct import Collector
from metering.billing.months import DUE_DAY, BillingCalendar, format_month, month_of
from metering.clock import Clock
from metering.errors import MeteringError, Reason, TransactionConflictError
from metering.model import AccountId, BillState, Money, Month, MonthlyRunRecord, RunFailure

BILLS_PER_READ = 1_000
"""Unpaid bills that are read together; after each such part it is noted what the run has done."""
ACCOUNTS_AT_A_TIME = 4
"""Accounts whose bills are deducted at the same time, each over a connection of its own."""
LOOK_BACK = timedelta(days=400)
"""How far back it is looked for closed months with accounts that had no price then. Open months are always found."""
FAILED_RUN_RETRY = timedelta(hours=1)
"""After a run that could not do all its work, the next one on the same day begins no sooner."""
FAILURES_TOLD_MAX = 100

log = logging.getLogger(__name__)


class RunBook(Protocol):
    """What the monthly run reads and notes."""

    def only_run(self) -> AbstractAsyncContextManager[bool]:
        """Be the one replica that does the monthly run, as long as this lasts; False: another one is."""

    async def last_runs(self, day: date) -> tuple[date | None, datetime | None]:
        """Return the last day whose run did all its work, and when a run of `day` last ended that could not."""

    async def begin(self, day: date, replica: str, now: datetime) -> MonthlyRunRecord:
        """Note that a run begins."""

    async def note(self, run: MonthlyRunRecord) -> None:
        """Note what a run has done so far."""

    async def months_to_close(self, before: Month, look_back_to: Month) -> list[Month]:
        """Return, oldest first, the months before `before` that are open with usage, or closed with unbilled usage."""

    def unpaid_bills(self, chunk: int) -> AsyncIterator[list[tuple[AccountId, Month]]]:
        """Return all bills that are not paid, at most `chunk` at a time, an account's oldest first."""


class IssuedBills(Protocol):
    """The bills there are."""

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        """Return how many bills a month has, and their totals, one per currency."""


class MonthlyRun:
    """Closes and deducts when it is time. Each step is idempotent, so that it may die anywhere and begin again.

    Args:
        book: where runs are noted.
        bills: where issued bills are counted.
        closer: closes.
        collector: deducts.
        calendar: of the billing time zone.
        clock: the present time.
        replica: what this process is called in the runs that it does.

    """

    def __init__(
        self,
        book: RunBook,
        bills: IssuedBills,
        closer: MonthCloser,
        collector: Collector,
        calendar: BillingCalendar,
        clock: Clock,
        replica: str,
    ) -> None:
        self._book = book
        self._bills = bills
        self._closer = closer
        self._collector = collector
        self._calendar = calendar
        self._clock = clock
        self._replica = replica

    async def run_if_due(self) -> MonthlyRunRecord | None:
        """Do what is due and not done yet, and tell what that was; None: nothing was due.

        Raises:
            DatabaseUnavailableError: it stopped in the middle; the next one goes on where it was.

        """
        if not await self._is_due():
            return None
        async with self._book.only_run() as mine:
            # Another replica may have done it while this one waited for its turn.
            return await self._run() if mine and await self._is_due() else None

    async def run_now(self) -> MonthlyRunRecord:
        """Do a run, whether one is due or not, and tell what it did.

        Raises:
            MeteringError: MONTHLY_RUN_UNDER_WAY, a replica is just doing it.
            DatabaseUnavailableError: it stopped in the middle; the next one goes on where it was.

        """
        async with self._book.only_run() as mine:
            if not mine:
                msg = "a replica is just doing the monthly run; wait until it has ended, `metering runs` shows it"
                raise MeteringError(Reason.MONTHLY_RUN_UNDER_WAY, msg, retry_after_s=1.0)
            return await self._run()

    async def _is_due(self) -> bool:
        """Day 1, 2 and 3 each have their run. Whoever was down on one of them makes up for it on a later day."""
        now = self._clock.now()
        today = self._calendar.today(now)
        done_on, failed_at = await self._book.last_runs(today)
        if done_on is not None and done_on >= min(today, today.replace(day=DUE_DAY)):
            return False
        return failed_at is None or now >= failed_at + FAILED_RUN_RETRY

    async def _run(self) -> MonthlyRunRecord:
        now = self._clock.now()
        today = self._calendar.today(now)
        run = await self._book.begin(today, self._replica, now)
        log.info("monthly run %d of %s: begins", run.run_id, today)
        for month in await months_to_close(self._book, today):
            await self._close(run, month)
            await self._book.note(run)
        async for bills in self._book.unpaid_bills(BILLS_PER_READ):
            await self._deduct_bills(run, bills)
            await self._book.note(run)
        run.finished_at = self._clock.now()
        await self._book.note(run)
        log.info(
            "monthly run %d of %s: done, %d bills issued, %d paid, %d accounts suspended, %d unrated, %d failures",
            run.run_id,
            today,
            run.bills_issued,
            run.bills_paid,
            run.accounts_suspended,
            run.accounts_unrated,
            run.failures,
        )
        return run

    async def _close(self, run: MonthlyRunRecord, month: Month) -> None:
        bills_before, totals_before = await self._bills.month_bills(month)
        newly_closed = False
        try:
            closed = await self._closer.close(month)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other months can be closed
            await self._note_failure(run, RunFailure(month, AccountId(""), _text(error)), error)
        else:
            run.accounts_unrated += len(closed.unrated_accounts)
            newly_closed = not closed.already_closed
        bills, totals = await self._bills.month_bills(month)
        run.bills_issued += bills - bills_before
        _add(run.issued, totals)
        _add(run.issued, (Money(-before.amount, before.currency) for before in totals_before))
        if newly_closed or bills > bills_before:
            run.months.append(month)
            log.info("monthly run %d: %s has %d bills", run.run_id, format_month(month), bills)

    async def _deduct_bills(self, run: MonthlyRunRecord, bills: Iterable[tuple[AccountId, Month]]) -> None:
        """Deduct bills, of some accounts at a time, each account's one after the other."""
        accounts = (list(of_account) for _, of_account in groupby(bills, itemgetter(0)))

        async def deduct_next_accounts() -> None:
            for of_account in accounts:
                for account_id, month in of_account:
                    await self._deduct(run, account_id, month)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(ACCOUNTS_AT_A_TIME):
                    tasks.create_task(deduct_next_accounts())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # the database is away; nothing else gets out of `_deduct`

    async def _deduct(self, run: MonthlyRunRecord, account_id: AccountId, month: Month) -> None:
        """Deduct one bill. What goes wrong with one account does not hold up the others."""
        try:
            deduction = await self._collector.deduct(account_id, month)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other bills can be deducted
            await self._note_failure(run, RunFailure(month, account_id, _text(error)), error)
            return
        run.bills_paid += deduction.bill.state is BillState.PAID
        run.accounts_suspended += deduction.suspended
        _add(run.deducted, [deduction.deducted])

    async def _note_failure(self, run: MonthlyRunRecord, failure: RunFailure, error: Exception) -> None:
        """Note what could not be done; raises DatabaseUnavailableError if the reason is that nothing can be done."""
        run.failures += 1
        if len(run.failed) < FAILURES_TOLD_MAX:
            run.failed.append(failure)
        await self._book.note(run)
        what = (
            f"the bill of {failure.account_id} could not be deducted" if failure.account_id else "could not be closed"
        )
        understood = isinstance(
            error, MeteringError | TransactionConflictError
        )  # else a defect: who mends it needs more
        log.error(
            *("monthly run %d: %s: %s: %s", run.run_id, format_month(failure.month), what, error),
            exc_info=None if understood else error,
        )


async def months_to_close(book: RunBook, today: date) -> list[Month]:
    """Return the months that a run of `today` closes, oldest first."""
    return await book.months_to_close(month_of(today), month_of(today - LOOK_BACK))


def _add(sums: dict[str, Decimal], amounts: Iterable[Money]) -> None:
    for money in amounts:
        total = sums.get(money.currency, Decimal(0)) + money.amount
        sums[money.currency] = total
        if not total:
            del sums[money.currency]


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
