"""Measures recording alone and while a month is closed: `make bench-close-meanwhile`.

The real service with one worker, on a fresh PostgreSQL, closes months of many accounts by CloseMonth; with `--deduct`,
their bills are then deducted by RunMonth. Recording is measured just before that and in the middle of it, turn by turn,
in calls of the month that is open.
"""

import asyncio
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from faceid_metering import MeteringError
from faceid_metering.sync import SyncMeteringClient
from metering.embedded_postgres import EmbeddedPostgresError
from tests.benchmarks import books
from tests.benchmarks.calls import Traffic
from tests.benchmarks.close import seed, seed_month
from tests.benchmarks.load import LoadPlan, LoadResult, Method
from tests.benchmarks.processes import BenchmarkError, ask
from tests.benchmarks.service import Service, fresh_postgres, running_service, settle

_DIRECTORY = Path("build/bench-close")
_TIME_ZONE = "Asia/Shanghai"
_RECORDING_ACCOUNTS = 1_000
_WARM_UP_SECONDS = 0.4
_CLOSE_SECONDS_MAX = 900
_LOADS = ((Method.RECORD_CALL, 1, 64), (Method.BATCH_RECORD_CALLS, 1_000, 8))
"""Method, calls in a request, requests in flight."""


@click.command(help=__doc__)
@click.option("--accounts", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True, help="Closed.")
@click.option("--repetitions", type=click.IntRange(1, 12), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="Of load, each time.")
@click.option("--deduct", is_flag=True, help="Measure while bills are deducted, and not while the month is closed.")
def main(accounts: int, repetitions: int, seconds: float, *, deduct: bool) -> None:
    """Measure, and show a line for each method."""
    what = "deduct" if deduct else "close"
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"Recording while the month of {accounts:,} accounts is {what}ed", title_justify="left")
    for heading in ("", "alone calls/s", "meanwhile calls/s", "ratio (min to max)", f"{what} µs/account"):
        table.add_column(heading, justify="right")
    try:
        with (
            fresh_postgres(_DIRECTORY) as database_url,
            running_service(database_url, _TIME_ZONE, 1) as service,
        ):
            books.activate(database_url, _RECORDING_ACCOUNTS)
            asyncio.run(seed(database_url, accounts))
            month = datetime.now(UTC).date().replace(day=1)
            for method, batch, in_flight in _LOADS:
                found = []
                for _ in range(repetitions):
                    month = (month - timedelta(days=1)).replace(day=1)
                    asyncio.run(seed_month(database_url, month))
                    asyncio.run(settle(database_url))
                    plan = _plan(service, method, batch, in_flight, seconds)
                    found.append(_measure(service, plan, f"{month:%Y-%m}", deduct=deduct))
                    alone, meanwhile, took_s = found[-1]
                    console.print(f"{method}: {alone:,.0f} alone, {meanwhile:,.0f} meanwhile, {what} {took_s:.1f} s")
                ratios = [meanwhile / alone for alone, meanwhile, _ in found]
                table.add_row(
                    method,
                    f"{median(alone for alone, _, _ in found):,.0f}",
                    f"{median(meanwhile for _, meanwhile, _ in found):,.0f}",
                    f"[bold]{median(ratios):.2f}[/bold] ({min(ratios):.2f} to {max(ratios):.2f})",
                    f"{1e6 * median(took_s for _, _, took_s in found) / accounts:.0f}",
                )
    except (BenchmarkError, EmbeddedPostgresError, MeteringError) as error:
        sys.exit(f"error: {error}")
    console.print(table)


def _plan(service: Service, method: Method, batch: int, in_flight: int, seconds: float) -> LoadPlan:
    return LoadPlan(
        host=service.host,
        port=service.port,
        method=method,
        connections=4,
        in_flight=in_flight,
        batch=batch,
        repeats=0,
        warm_up_seconds=_WARM_UP_SECONDS,
        seconds=seconds,
        gather_seconds=0.0005,
        traffic=Traffic(_RECORDING_ACCOUNTS, int(time.time()), _TIME_ZONE),
    )


def _measure(service: Service, plan: LoadPlan, month: str, *, deduct: bool) -> tuple[float, float, float]:
    """Return calls a second alone and while a month is closed or deducted, and how many seconds that took."""
    with ThreadPoolExecutor(1) as thread, SyncMeteringClient(service.target) as metering:
        if deduct:
            metering.close_month(month, timeout_s=_CLOSE_SECONDS_MAX)
        alone = _load(plan)
        begin = time.perf_counter()
        working: Future[object] = (
            thread.submit(metering.run_month, timeout_s=_CLOSE_SECONDS_MAX)
            if deduct
            else thread.submit(metering.close_month, month, timeout_s=_CLOSE_SECONDS_MAX)
        )
        meanwhile = _load(plan)
        if working.done():
            raise BenchmarkError("it was done before the load ended: take more --accounts, or fewer --seconds")
        working.result()
        return alone, meanwhile, time.perf_counter() - begin


def _load(plan: LoadPlan) -> float:
    result = ask("tests.benchmarks.load", plan, LoadResult, plan.seconds + 60)
    return result.calls / result.seconds


if __name__ == "__main__":
    main()
