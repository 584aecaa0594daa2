"""The monthly run: on day 1 to 3, last month is closed and its bills are deducted. No human has to remember it.

On day 1 and 2, whoever is short is left alone. On day 3, the due date, Deduct suspends who still is.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Protocol

from metering.billing.close import MonthCloser
from metering.billing.deduct import Collector
from metering.billing.lanes import in_lanes
from metering.billing.months import DUE_DAY, BillingCalendar, format_month, month_of
from metering.clock import Clock
from metering.errors import MeteringError, Reason, TransactionConflictError
from metering.model import AccountId, Debtor, Money, Month, MonthlyRunRecord, RunFailure

ACCOUNTS_PER_CHUNK = 200
"""Accounts whose bills are deducted in one transaction. After each it is noted what the run has done."""
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

    def debtors(self, chunk: int) -> AsyncIterator[list[Debtor]]:
        """Return all accounts with bills that are not paid, sorted, at most `chunk` at a time."""


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
        await in_lanes(self._noting(run, self._book.debtors(ACCOUNTS_PER_CHUNK)), partial(self._deduct, run))
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

    async def _noting(
        self, run: MonthlyRunRecord, chunks: AsyncIterator[Sequence[Debtor]]
    ) -> AsyncIterator[Sequence[Debtor]]:
        """Pass chunks on, and before each note what the run has done; one at a time, so that no note is overtaken."""
        async for debtors in chunks:
            yield debtors
            await self._book.note(run)

    async def _deduct(self, run: MonthlyRunRecord, debtors: Sequence[Debtor]) -> None:
        """Deduct the bills of accounts. What goes wrong with one account does not hold up the others."""
        try:
            collected = await self._collector.deduct_all([debtor.account_id for debtor in debtors])
        except Exception as error:  # noqa: BLE001 - whatever it is, the other accounts' bills can be deducted
            if len(debtors) == 1:
                failure = RunFailure(debtors[0].oldest_month, debtors[0].account_id, _text(error))
                await self._note_failure(run, failure, error)
                return
            log.warning("monthly run %d: %d accounts are deducted one by one: %s", run.run_id, len(debtors), error)
            for debtor in debtors:
                await self._deduct(run, [debtor])
            return
        run.bills_paid += collected.bills_paid
        run.accounts_suspended += collected.accounts_suspended
        _add(run.deducted, collected.deducted)

    async def _note_failure(self, run: MonthlyRunRecord, failure: RunFailure, error: Exception) -> None:
        """Note what could not be done; raises DatabaseUnavailableError if the reason is that nothing can be done."""
        run.failures += 1
        if len(run.failed) < FAILURES_TOLD_MAX:
            run.failed.append(failure)
        await self._book.note(run)
        what = (
            f"the bill of {failure.account_id} could not be deducted" if failure.account_id else "could not be closed"
        )
        # Anything else is a defect: whoever mends it needs to know where.
        understood = isinstance(error, MeteringError | TransactionConflictError)
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
