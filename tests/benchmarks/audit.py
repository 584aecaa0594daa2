"""Measures the audit: `make bench-audit`, or `make bench-audit ARGS='--accounts 10000 --days 30'`.

In a fresh PostgreSQL, every account makes one call a day for some days of last month, of three apis in turn, and the
month is closed by the code that CloseMonth uses. Then all is audited, some accounts at a time, in a process of its own,
and must be right.
"""

import asyncio
import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from metering.embedded_postgres import EmbeddedPostgresError
from metering.store.database import Database
from metering.store.installation import InstallationStore
from metering.store.schema import migrate
from tests.benchmarks.auditing import AuditPlan, AuditResult
from tests.benchmarks.closing import ClosePlan, CloseResult
from tests.benchmarks.processes import BenchmarkError, ask
from tests.benchmarks.service import fresh_postgres

_DIRECTORY = Path("build/bench-audit")
_TIME_ZONE = "Asia/Shanghai"
_APIS = ("DetectAuth", "CompareFace", "DetectLiveFace")
_SECONDS_MAX = 1_800

_SEED_PLAN = """
    INSERT INTO price_plans (price_plan_id, version, currency, prices, created_at)
    VALUES ('bench', 1, 'CNY', $1::jsonb, now())
"""
_SEED_ACCOUNTS = """
    INSERT INTO accounts (account_id, currency, activated_at)
    SELECT 'bench-' || to_char(n, 'FM0000000'), 'CNY', now() FROM generate_series(0, $1::integer - 1) AS n
"""
_SEED_ASSIGNMENTS = """
    INSERT INTO price_plan_assignments (account_id, from_month, price_plan_id)
    SELECT account_id, '0001-01-01', 'bench' FROM accounts
"""
# In no order of the accounts, as calls come in.
_SEED_CALLS = """
    INSERT INTO calls (occurred_at, occurred_on, billing_month, call_id, account_id, api, result_code)
    SELECT $1::date::timestamp AT TIME ZONE $2 + random() * interval '86399 seconds', $1, date_trunc('month', $1::date),
        gen_random_uuid(), account_id, $3, ''
    FROM accounts
    ORDER BY hashtext(account_id || $1::date::text)
"""
_SEED_USAGE = """
    INSERT INTO usage_daily (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT account_id, billing_month, occurred_on, api, result_code, count(*)
    FROM calls
    GROUP BY account_id, billing_month, occurred_on, api, result_code
    ORDER BY account_id, billing_month, occurred_on, api, result_code
"""


@click.command(help=__doc__)
@click.option("--accounts", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True)
@click.option("--days", type=click.IntRange(1, 28), default=28, show_default=True, help="On which each makes a call.")
@click.option(
    "--accounts-max",
    "sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(500, 1_000, 2_000),
    show_default=True,
    help="In one snapshot; may be repeated.",
)
def main(accounts: int, days: int, sizes: tuple[int, ...]) -> None:
    """Measure, and show a line for each size of a snapshot."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"Audit, {accounts:,} accounts, {days} calls of each", title_justify="left")
    for heading in ("in a snapshot", "s", "longest", "µs/account", "µs/call", "of it Python", "peak MB"):
        table.add_column(heading, justify="right")
    month = (datetime.now(UTC).date().replace(day=1) - timedelta(days=15)).replace(day=1)
    try:
        with fresh_postgres(_DIRECTORY) as database_url:
            asyncio.run(_seed(database_url, month, accounts, days))
            ask(
                "tests.benchmarks.closing",
                ClosePlan(database_url, _TIME_ZONE, month.isoformat(), deduct=False),
                CloseResult,
                _SECONDS_MAX,
            )
            for size in sizes:
                result = _measure(AuditPlan(database_url, _TIME_ZONE, size), accounts, accounts * days)
                table.add_row(
                    f"{size:,}",
                    f"{result.seconds:.1f}",
                    f"{result.longest_seconds:.2f}",
                    f"[bold]{1e6 * result.seconds / accounts:.0f}",
                    f"{1e6 * result.seconds / result.calls:.1f}",
                    f"{1e6 * result.processor_seconds / result.calls:.1f}",
                    f"{result.peak_mb:.0f}",
                )
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")
    console.print(table)


def _measure(plan: AuditPlan, accounts: int, calls: int) -> AuditResult:
    result = ask("tests.benchmarks.auditing", plan, AuditResult, _SECONDS_MAX)
    if (result.accounts, result.calls, result.differences) != (accounts, calls, 0):
        raise BenchmarkError(f"the audit found {result}")
    return result


async def _seed(database_url: str, month: date, accounts: int, days: int) -> None:
    """Put accounts, their price, their calls and their usage into the tables, as the owner."""
    await migrate(database_url)
    database = await Database.connect(database_url, name="benchmark", connections=1)
    await InstallationStore(database).install(_TIME_ZONE, month, datetime.now(UTC))
    await database.close()
    prices = [
        {
            "api": api,
            "model": "PER_CALL",
            "tiers": [{"up_to": None, "unit_price": "0.01"}],
            "free_calls": 0,
            "uncharged_result_codes": [],
        }
        for api in _APIS
    ]
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_SEED_PLAN, json.dumps(prices))
        await connection.execute(_SEED_ACCOUNTS, accounts)
        await connection.execute(_SEED_ASSIGNMENTS)
        for number in range(days):
            day = month + timedelta(days=number)
            await connection.execute("SELECT ensure_calls_partition($1)", day)
            await connection.execute(_SEED_CALLS, day, _TIME_ZONE, _APIS[number % len(_APIS)])
        await connection.execute(_SEED_USAGE)
        for statement in ("VACUUM (ANALYZE)", "CHECKPOINT"):
            await connection.execute(statement)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
