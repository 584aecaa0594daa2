"""Measures ListCalls: `make bench-listing`, or `make bench-listing ARGS='--calls 10000000'`.

One account has calls on 25 days of a month. They are exported as CSV by `metering export-calls`, a process of its own,
from the real service with one worker. In the end the file must prove the bill.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import click

from faceid_metering.evidence import read_calls, verify_bill
from faceid_metering.sync import SyncMeteringClient
from metering.embedded_postgres import EmbeddedPostgresError
from tests.benchmarks import books
from tests.benchmarks.processes import BenchmarkError, python, resident_mb, running
from tests.benchmarks.service import Service, fresh_postgres, running_service

_DIRECTORY = Path("build/bench-listing")
_TIME_ZONE = "Asia/Shanghai"
_ACCOUNT = "bench-000000"
_DAYS = 25
_SECONDS_BETWEEN_LOOKS = 5.0
_CLOSE_SECONDS_MAX = 900

_SEED_DAY = """
    INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
    SELECT $1::date, $2, gen_random_uuid(), $1::date + n * interval '1 ms', 'DetectAuth', '', month
    FROM date_trunc('month', $1::date) AS month, generate_series(1, $3::integer) AS n
"""
_SEED_USAGE = """
    INSERT INTO usage_daily (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT $2, date_trunc('month', $1::date), $1::date, 'DetectAuth', '', $3::integer
"""


@click.command(help=__doc__)
@click.option("--calls", type=click.IntRange(_DAYS, 100_000_000), default=1_000_000, show_default=True)
def main(calls: int) -> None:
    """Measure, and tell how far it is with what memory."""
    month = (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)
    try:
        with (
            fresh_postgres(_DIRECTORY) as database_url,
            running_service(database_url, _TIME_ZONE, 1) as service,
            tempfile.TemporaryDirectory(dir=_DIRECTORY) as directory,
        ):
            books.activate(database_url, 1)
            begin = time.perf_counter()
            asyncio.run(_seed(database_url, month, calls // _DAYS))
            print(f"{calls:,} calls are there after {time.perf_counter() - begin:.0f} s", flush=True)
            _measure(service, f"{month:%Y-%m}", Path(directory) / "calls.csv")
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")


async def _seed(database_url: str, month: date, calls_of_day: int) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for number in range(_DAYS):
            day = month + timedelta(days=number)
            await connection.execute("SELECT ensure_calls_partition($1::date)", day)
            for statement in (_SEED_DAY, _SEED_USAGE):
                await connection.execute(statement, day, _ACCOUNT, calls_of_day)
        await connection.execute("VACUUM (ANALYZE) calls")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _measure(service: Service, month: str, file: Path) -> None:
    with SyncMeteringClient(service.target) as metering:
        begin = time.perf_counter()
        metering.close_month(month, timeout_s=_CLOSE_SECONDS_MAX)
        print(f"closed, with the digest, in {time.perf_counter() - begin:.1f} s", flush=True)
        bill = metering.get_bill(_ACCOUNT, month)
    begin = time.perf_counter()
    command = python("metering", "export-calls", _ACCOUNT, month, str(file), "--target", service.target)
    with running(command, stdout=subprocess.DEVNULL, stderr=None) as process:
        while process.poll() is None:
            print(
                f"{time.perf_counter() - begin:6.1f} s: service {resident_mb(service.processes[0]):.0f} MB, "
                f"client {resident_mb(process.pid):.0f} MB",
                flush=True,
            )
            try:
                process.wait(_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue
        if process.returncode:
            raise BenchmarkError("the export failed")
    seconds = time.perf_counter() - begin
    calls = sum(line.calls for line in bill.lines)
    print(f"exported {calls:,} calls in {seconds:.1f} s, {calls / seconds:,.0f} a second", flush=True)
    begin = time.perf_counter()
    if differences := verify_bill(bill, read_calls(file)):
        raise BenchmarkError("; ".join(differences))
    print(f"the file proves the bill, found in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
