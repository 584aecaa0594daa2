"""Audits books once, in a process of its own, so that its memory is that of the audit alone."""

import resource
import sys
import time
from dataclasses import dataclass

from metering.billing.audit import Auditor
from metering.billing.months import BillingCalendar
from metering.clock import SystemClock
from metering.errors import DatabaseUnavailableError
from metering.model import AuditSum
from metering.store.audit import AuditStore
from metering.store.database import Database
from metering.supervisor import run_as_worker
from tests.benchmarks.processes import answer, question

_STATEMENT_SECONDS_MAX = 600.0


@dataclass(frozen=True)
class AuditPlan:
    """What to audit."""

    database_url: str
    time_zone: str
    accounts_max: int
    """In one snapshot."""


@dataclass(frozen=True)
class AuditResult:
    """What it came to."""

    accounts: int
    calls: int
    differences: int
    seconds: float
    longest_seconds: float
    """The longest snapshot."""
    processor_seconds: float
    """Of this process: the rest is PostgreSQL's."""
    peak_mb: float
    """The most memory this process held."""


async def run(plan: AuditPlan) -> AuditResult:
    """Audit."""
    database = await Database.connect(
        plan.database_url, name="benchmark", connections=1, timeout_s=_STATEMENT_SECONDS_MAX
    )
    found, longest = AuditSum(), 0.0
    try:
        auditor = Auditor(AuditStore(database), BillingCalendar.of_zone(plan.time_zone), SystemClock())
        begin, processor = time.perf_counter(), time.process_time()
        before = begin
        async for part in auditor.audit(accounts_max=plan.accounts_max):
            part.add_to(found)
            longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
        end, processor_end = time.perf_counter(), time.process_time()
    finally:
        await database.close()
    return AuditResult(
        accounts=found.accounts,
        calls=found.calls["recorded"],
        differences=found.differences.total(),
        seconds=end - begin,
        longest_seconds=longest,
        processor_seconds=processor_end - processor,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


if __name__ == "__main__":
    try:
        answer(run_as_worker(run(question(AuditPlan))))
    except DatabaseUnavailableError as error:
        sys.exit(str(error))
