"""The monthly run: on day 1 to 3, last month is closed and its bills are deducted. No human has to remember it."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, timedelta
from typing import Protocol

from metering.billing.close import MonthCloser
from metering.billing.deduct import Collector
from metering.billing.months import DUE_DAY, BillingCalendar, format_month, month_of
from metering.clock import Clock
from metering.model import AccountId, BillState, Month

BILLS_PER_READ = 1_000
LOOK_BACK = timedelta(days=400)
"""How far back a month is looked for that was left open or with calls that had no price."""

log = logging.getLogger(__name__)


class RunBook(Protocol):
    """What the monthly run reads and notes."""

    def monthly_run(self) -> AbstractAsyncContextManager[bool]:
        """Be the one replica that does the monthly run, as long as this lasts; False: another one is."""

    async def last_monthly_run(self) -> date | None:
        """Return the last day on which the monthly run did its work."""

    async def finish_monthly_run(self, day: date, now: datetime) -> None:
        """Note that the monthly run did the work of a day."""

    async def months_to_close(self, before: Month, not_before: Month) -> list[Month]:
        """Return the months in [not_before, before) that have usage without a bill, oldest first."""

    def unpaid_bills(self, chunk: int) -> AsyncIterator[tuple[AccountId, Month]]:
        """Return all bills that are not paid."""


class MonthlyRun:
    """Closes and deducts when it is time. Each step is idempotent, so that it may die anywhere and begin again."""

    def __init__(
        self, book: RunBook, closer: MonthCloser, collector: Collector, calendar: BillingCalendar, clock: Clock
    ) -> None:
        self._book = book
        self._closer = closer
        self._collector = collector
        self._calendar = calendar
        self._clock = clock

    async def run_if_due(self) -> bool:
        """Do what is due and not done yet; tell whether anything was due. Raises MeteringError."""
        today = self._calendar.today(self._clock.now())
        if not await self._is_due(today):
            return False
        async with self._book.monthly_run() as mine:
            # Another replica may have done it while this one waited for its turn.
            if not mine or not await self._is_due(today):
                return False
            await self._run(today)
        return True

    async def _is_due(self, today: date) -> bool:
        """Day 1, 2 and 3 each have their run. Whoever was down on one of them makes up for it on a later day."""
        last = await self._book.last_monthly_run()
        return last is None or last < min(today, today.replace(day=DUE_DAY))

    async def _run(self, today: date) -> None:
        log.info("monthly run of %s: begins", today)
        this_month = month_of(today)
        for month in await self._book.months_to_close(this_month, month_of(today - LOOK_BACK)):
            closed = await self._closer.close(month)
            log.info(
                "monthly run of %s: %s is closed, %d bills, %d accounts without a price",
                today,
                format_month(month),
                closed.bills_issued,
                len(closed.unrated_accounts),
            )
        bills = paid = overdue = 0
        async for account_id, month in self._book.unpaid_bills(BILLS_PER_READ):
            deduction = await self._collector.deduct(account_id, month)
            bills += 1
            paid += deduction.bill.state is BillState.PAID
            overdue += deduction.bill.state is BillState.OVERDUE
        await self._book.finish_monthly_run(today, self._clock.now())
        log.info("monthly run of %s: done, %d bills tried, %d paid, %d overdue", today, bills, paid, overdue)
