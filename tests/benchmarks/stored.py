"""Whether speed depends on how many calls are stored: a database that is filled, and an empty one beside it."""

import asyncio
import time
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg

from tests.benchmarks import books
from tests.benchmarks.accounts import UsagePlan, UsageResult
from tests.benchmarks.calls import API
from tests.benchmarks.load import Method
from tests.benchmarks.parts import Tell
from tests.benchmarks.processes import ask
from tests.benchmarks.results import Part, StoredPoint
from tests.benchmarks.service import Service, another_database, running_service
from tests.benchmarks.suite import Bench

STEPS = (0.25, 0.5, 1.0)
"""At which shares of the calls to be stored is measured."""
_FILLERS = 2
_USAGE_REQUESTS = 500
_USAGE_SECONDS_MAX = 120

_FILL_CALLS = f"""
    INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
    SELECT $1, 'bench-' || to_char(n % $3, 'FM000000'), gen_random_uuid(), $2::timestamptz + n * interval '1 ms',
        '{API}', '', date_trunc('month', $1::date)::date
    FROM generate_series(0, $3::bigint * $4 - 1) AS n
    ORDER BY 2, 3
"""
_FILL_USAGE = f"""
    INSERT INTO usage_daily AS usage (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT 'bench-' || to_char(n, 'FM000000'), date_trunc('month', $1::date)::date, $1, '{API}', '', $3
    FROM generate_series(0, $2::bigint - 1) AS n
    ON CONFLICT (account_id, billing_month, occurred_on, api, result_code) DO UPDATE
        SET calls = usage.calls + excluded.calls
"""


def stored(bench: Bench, tell: Tell) -> list[StoredPoint]:
    """Fill a database step by step, and measure it at each, turn by turn with an empty one."""
    options, found, before = bench.options, [], 0
    full_url, empty_url = (another_database(bench.service.database_url, name) for name in ("stored", "empty"))
    with (
        running_service(full_url, options.time_zone, options.workers) as full,
        running_service(empty_url, options.time_zone, options.workers) as empty,
    ):
        for url in (full_url, empty_url):
            books.activate(url, options.accounts)
        for share in (0.0, *STEPS):
            target = round(share * options.stored)
            _fill(bench, full, target - before, tell)
            before = target
            found.append(_measure(bench, full, empty, target, tell))
        for each in (full, empty):
            each.books.check(each.database_url, each.target, bench.traffic)
    return found


def _measure(bench: Bench, full: Service, empty: Service, count: int, tell: Tell) -> StoredPoint:
    usage = [_usage_ms(bench, empty), _usage_ms(bench, full)] if count else [(0.0, 0.0)] * 2
    point = StoredPoint(count, [], [], [], [], usage_ms=usage[1], usage_empty_ms=usage[0])
    for _ in range(bench.options.repetitions):
        for method, size, of_full, of_empty in (
            (Method.RECORD_CALL, 1, point.record, point.record_empty),
            (Method.BATCH_RECORD_CALLS, bench.options.batch, point.batch, point.batch_empty),
        ):
            for name, server, to in (("empty", empty, of_empty), (f"{count:,} stored", full, of_full)):
                to.append(bench.closed(server, method, batch=size))
                tell(Part.STORED, f"{method}, {name}", to[-1])
    return point


def _usage_ms(bench: Bench, server: Service) -> tuple[float, float]:
    """Return what GetMonthlyUsage takes, p50 and p99."""
    account_ids = bench.traffic.account_ids()
    asked = tuple(account_ids[number % len(account_ids)] for number in range(_USAGE_REQUESTS))
    plan = UsagePlan(server.target, asked, f"{bench.traffic.day():%Y-%m}")
    result = ask("tests.benchmarks.accounts", plan, UsageResult, _USAGE_SECONDS_MAX)
    return result.p50_ms, result.p99_ms


def _fill(bench: Bench, server: Service, count: int, tell: Tell) -> None:
    """Store so many calls, evenly over the accounts and the days of the month up to today.

    By the owner of the database, straight into the tables, each day's calls in the order of their key: INSERTs of whole
    days, made up by PostgreSQL itself, are as quick as a COPY and need no rows to be sent.
    """
    if not count:
        return
    today = bench.traffic.day()
    days = [today - timedelta(days=back) for back in range(today.day)]
    of_account_and_day = max(1, count // len(days) // bench.options.accounts)
    begin = time.monotonic()
    asyncio.run(_fill_days(bench, server.database_url, days, of_account_and_day))
    for account_id in bench.traffic.account_ids():
        server.books.acknowledged[account_id] += of_account_and_day * len(days)
    tell(Part.STORED, f"{count:,} calls put in", f"{time.monotonic() - begin:.0f} s")


async def _fill_days(bench: Bench, url: str, days: list[date], of_account: int) -> None:
    waiting = iter(days)
    zone = ZoneInfo(bench.options.time_zone)

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        try:
            for day in waiting:
                start = datetime.combine(day, datetime.min.time(), zone)
                await connection.execute("SELECT ensure_calls_partition($1)", day)
                async with connection.transaction():
                    await connection.execute(_FILL_CALLS, day, start, bench.options.accounts, of_account)
                    await connection.execute(_FILL_USAGE, day, bench.options.accounts, of_account)
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_FILLERS):
            tasks.create_task(fill())
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM (ANALYZE) calls, usage_daily")  # as autovacuum would, but before we measure
    finally:
        await connection.close()
