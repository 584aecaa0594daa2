"""Measures the close of a month: `make bench-close`, or `make bench-close ARGS='--accounts 1000000'`.

Each size has a database of its own, in one fresh PostgreSQL, and every account has calls of three apis. They are closed
by the code that CloseMonth and the monthly run use, in a process of its own. At the end, every account must have its
bill, with what it costs.
"""

import asyncio
import json
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from metering.embedded_postgres import EmbeddedPostgresError
from metering.store.schema import migrate
from tests.benchmarks.closing import ClosePlan, CloseResult
from tests.benchmarks.processes import BenchmarkError, ask
from tests.benchmarks.service import another_database, fresh_postgres

_DIRECTORY = Path("build/bench-close")
_TIME_ZONE = "Asia/Shanghai"
_APIS = ("DetectAuth", "CompareFace", "DetectLiveFace")
_CALLS = 37
"""Of each account, api and day, if they are counted only; one if there are raw calls, too."""
_PRICE = Decimal("0.01")
_CLOSE_SECONDS_MAX = 1_800

_SEED_PLAN = """
    INSERT INTO price_plans (price_plan_id, version, currency, prices, created_at)
    VALUES ('bench-close', 1, 'CNY', $1::jsonb, now())
"""
_SEED_ACCOUNTS = """
    INSERT INTO accounts (account_id, currency, balance, activated_at)
    SELECT 'close-' || to_char(n, 'FM0000000'), 'CNY', n % 2 * 1000, now() FROM generate_series(0, $1::integer - 1) AS n
"""
_SEED_ASSIGNMENTS = """
    INSERT INTO price_plan_assignments (account_id, from_month, price_plan_id)
    SELECT account_id, '0001-01-01', 'bench-close' FROM accounts WHERE account_id LIKE 'close-%'
"""
_SEED_USAGE = """
    INSERT INTO usage_daily (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT account_id, $1::date, $1::date + day, api, '', $4
    FROM accounts, generate_series(0, $2::integer - 1) AS day, unnest($3::text[]) AS api
    WHERE account_id LIKE 'close-%'
"""
_SEED_CALLS = """
    INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
    SELECT occurred_on, account_id, gen_random_uuid(), occurred_on + interval '12 h', api, result_code, billing_month
    FROM usage_daily
    WHERE billing_month = $1::date
"""


@click.command(help=__doc__)
@click.option(
    "--accounts",
    "sizes",
    type=click.IntRange(1, 10_000_000),
    multiple=True,
    default=(10_000, 100_000),
    show_default=True,
    help="With calls in the month; may be repeated.",
)
@click.option(
    "--deduct", is_flag=True, help="Deduct the bills, too, as the monthly run does; half of them can be paid."
)
@click.option("--raw", is_flag=True, help="With one raw call of each api and day, of which digests are made.")
@click.option("--days", type=click.IntRange(1, 28), default=1, show_default=True, help="On which each has calls.")
def main(sizes: tuple[int, ...], days: int, *, raw: bool, deduct: bool) -> None:
    """Measure, and show a line for each size."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"Close, {len(_APIS)} apis on {days} days for each account", title_justify="left")
    for heading in (
        "accounts",
        "close s",
        "µs/account",
        "of it Python",
        "peak MB",
        "months to close s",
        "… closed s",
        "deduct s",
        "accounts/s",
    ):
        table.add_column(heading, justify="right")
    try:
        with fresh_postgres(_DIRECTORY) as server_url:
            for accounts in sizes:
                result = _measure(
                    another_database(server_url, f"close_{accounts}"), accounts, days, raw=raw, deduct=deduct
                )
                table.add_row(
                    f"{accounts:,}",
                    f"{result.seconds:.2f}",
                    f"[bold]{1e6 * result.seconds / accounts:.0f}",
                    f"{1e6 * result.processor_seconds / accounts:.0f}",
                    f"{result.peak_mb:.0f}",
                    f"{result.find_seconds:.2f}",
                    f"{result.find_closed_seconds:.2f}",
                    f"{result.deduct_seconds:.2f}" if deduct else "",
                    f"{accounts / result.deduct_seconds:,.0f}" if deduct else "",
                )
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")
    console.print(table)


def _measure(database_url: str, accounts: int, days: int, *, raw: bool, deduct: bool) -> CloseResult:
    month = (datetime.now(UTC).date().replace(day=1) - timedelta(days=15)).replace(day=1)
    asyncio.run(migrate(database_url))
    asyncio.run(seed(database_url, accounts))
    asyncio.run(seed_month(database_url, month, days, raw=raw))
    plan = ClosePlan(database_url, _TIME_ZONE, month.isoformat(), deduct)
    result = ask("tests.benchmarks.closing", plan, CloseResult, _CLOSE_SECONDS_MAX)
    bill = len(_APIS) * days * (1 if raw else _CALLS) * _PRICE
    expected = (accounts, f"{accounts * bill} CNY")
    if (result.bills, result.total) != expected:
        raise BenchmarkError(f"{result.bills} bills of {result.total}; expected {expected}")
    paid = (accounts // 2, f"{accounts // 2 * bill} CNY")
    if deduct and (result.bills_paid, result.deducted) != paid:
        raise BenchmarkError(f"{result.bills_paid} bills paid, {result.deducted}; expected {paid}")
    return result


async def seed(database_url: str, accounts: int) -> None:
    """Put accounts and their price into the tables, as the owner; they are migrated, and may hold the price."""
    price = {"model": "PER_CALL", "free_calls": 0, "uncharged_result_codes": []}
    tiers = [{"up_to": None, "unit_price": str(_PRICE)}]
    await _execute(
        database_url,
        (_SEED_PLAN, json.dumps([{"api": api, "tiers": tiers, **price} for api in _APIS])),
        (_SEED_ACCOUNTS, accounts),
        (_SEED_ASSIGNMENTS,),
        ("VACUUM (ANALYZE) accounts, price_plan_assignments",),
    )


async def seed_month(database_url: str, month: date, days: int = 1, *, raw: bool = False) -> None:
    """Put usage of all seeded accounts in a month into the tables."""
    calls: list[tuple[object, ...]] = []
    if raw:
        calls = [("SELECT ensure_calls_partition($1::date + $2::integer)", month, day) for day in range(days)]
        calls += [(_SEED_CALLS, month), ("VACUUM (ANALYZE) calls",)]
    await _execute(
        database_url,
        (_SEED_USAGE, month, days, _APIS, 1 if raw else _CALLS),
        ("VACUUM (ANALYZE) usage_daily",),
        *calls,
        ("CHECKPOINT",),
    )


async def _execute(database_url: str, *statements: tuple[object, ...]) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for statement, *arguments in statements:
            await connection.execute(str(statement), *arguments)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
