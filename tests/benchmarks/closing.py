"""Closes one month, in a process of its own, so that its memory is that of the close alone."""

import resource
import sys
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from metering.billing.close import MonthCloser
from metering.billing.deduct import Collector
from metering.billing.monthly_run import MonthlyRun
from metering.billing.months import BillingCalendar, month_of
from metering.clock import SystemClock
from metering.errors import DatabaseUnavailableError
from metering.store.bills import BillStore
from metering.store.database import Database
from metering.store.monthly_runs import MonthlyRunStore
from metering.supervisor import run_as_worker
from tests.benchmarks.processes import answer, question

_STATEMENT_SECONDS_MAX = 600.0


@dataclass(frozen=True)
class ClosePlan:
    """What to close."""

    database_url: str
    time_zone: str
    month: str
    """Its first day, such as `2026-10-01`."""
    deduct: bool
    """Then do a monthly run, which finds nothing to close and deducts all bills."""


@dataclass(frozen=True)
class CloseResult:
    """What it came to."""

    bills: int
    total: str
    seconds: float
    find_seconds: float
    """What the monthly run takes to find that the month is to be closed."""
    find_closed_seconds: float
    """The same once everything is billed: what each further run takes to find that there is nothing to do."""
    deduct_seconds: float
    """0 if that was not asked for."""
    bills_paid: int
    deducted: str
    processor_seconds: float
    """Of this process: the rest is PostgreSQL's."""
    peak_mb: float
    """The most memory this process held."""


async def run(plan: ClosePlan) -> CloseResult:
    """Close."""
    calendar, clock = BillingCalendar.of_zone(plan.time_zone), SystemClock()
    month = month_of(date.fromisoformat(plan.month))
    this_month = month_of(calendar.today(clock.now()))
    database = await Database.connect(
        plan.database_url, name="benchmark", connections=8, timeout_s=_STATEMENT_SECONDS_MAX
    )
    try:
        runs, bills = MonthlyRunStore(database), BillStore(database)
        closer = MonthCloser(bills, calendar, clock)
        begin = time.perf_counter()
        await runs.months_to_close(this_month, month)
        found, processor = time.perf_counter(), time.process_time()
        closed = await closer.close(month)
        end, processor_end = time.perf_counter(), time.process_time()
        await runs.months_to_close(this_month, month)
        bills_paid, deducted = 0, dict[str, Decimal]()
        deduct_begin = time.perf_counter()
        find_closed_seconds = deduct_begin - end
        if plan.deduct:
            collector = Collector(bills, calendar, clock)
            monthly_run = await MonthlyRun(runs, bills, closer, collector, calendar, clock, "benchmark").run_now()
            bills_paid, deducted = monthly_run.bills_paid, monthly_run.deducted
        deduct_seconds = time.perf_counter() - deduct_begin if plan.deduct else 0.0
    finally:
        await database.close()
    return CloseResult(
        bills=closed.bills_issued,
        total=", ".join(f"{money.amount} {money.currency}" for money in closed.totals),
        seconds=end - found,
        find_seconds=found - begin,
        find_closed_seconds=find_closed_seconds,
        deduct_seconds=deduct_seconds,
        bills_paid=bills_paid,
        deducted=", ".join(f"{amount} {currency}" for currency, amount in deducted.items()),
        processor_seconds=processor_end - processor,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


if __name__ == "__main__":
    try:
        answer(run_as_worker(run(question(ClosePlan))))
    except DatabaseUnavailableError as error:
        sys.exit(str(error))
