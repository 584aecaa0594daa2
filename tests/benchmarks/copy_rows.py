"""Bare COPY: the limit of what this PostgreSQL takes of such rows, durable and under the same key.

The same columns, primary key and partition as the service's `calls` (made from it with LIKE), filled over two
connections that do nothing else. The rows are made, and sorted by their key, before the clock starts: nothing is
received, checked, counted or answered. A COPY is a transaction of its own, committed to disk.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import asyncpg
import uvloop

from tests.benchmarks.calls import Row, Traffic, rows
from tests.benchmarks.processes import answer, question

SCHEMA = "bench"
TABLE = "bench_calls"
INSERTED_TABLE = "bench_inserted_calls"
"""Of the service that INSERTs each call."""
COLUMNS = ("occurred_on", "account_id", "call_id", "occurred_at", "api", "result_code", "billing_month")


@dataclass(frozen=True)
class CopyPlan:
    """What to copy where."""

    url: str
    connections: int
    rows: int
    rows_a_copy: int
    warm_up_rows: int
    traffic: Traffic


@dataclass(frozen=True)
class CopyResult:
    """What came of it."""

    rows: int
    seconds: float
    processor_seconds: float
    """What this process took of a processor."""


async def make_tables(url: str, traffic: Traffic) -> None:
    """Make the tables, empty, like the service's `calls`."""
    day = traffic.day()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for table in (TABLE, INSERTED_TABLE):
            await connection.execute(f"""
                CREATE TABLE {SCHEMA}.{table}
                    (LIKE calls INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
                    PARTITION BY RANGE (occurred_on);
                CREATE TABLE {SCHEMA}.{table}_of_day PARTITION OF {SCHEMA}.{table}
                    FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')
                    WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
            """)
    finally:
        await connection.close()


async def count_rows(url: str) -> tuple[int, int]:
    """Return how many rows were copied, and how many inserted."""
    connection = await asyncpg.connect(url)
    try:
        copied, inserted = [
            await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.{table}") for table in (TABLE, INSERTED_TABLE)
        ]
    finally:
        await connection.close()
    return copied, inserted


async def run(plan: CopyPlan) -> CopyResult:
    """Copy the rows."""
    source = rows(plan.traffic)
    warm_up = _chunks(source, plan.warm_up_rows, plan.rows_a_copy)
    measured = _chunks(source, plan.rows, plan.rows_a_copy)
    gc.collect()
    gc.freeze()
    connections = [
        await asyncpg.connect(plan.url, server_settings={"synchronous_commit": "on", "jit": "off"})
        for _ in range(plan.connections)
    ]
    try:
        await _copy(connections, iter(warm_up))
        begin, begin_processor = time.perf_counter(), time.process_time()
        await _copy(connections, iter(measured))
        seconds, processor_seconds = time.perf_counter() - begin, time.process_time() - begin_processor
    finally:
        for connection in connections:
            await connection.close()
    return CopyResult(rows=plan.rows, seconds=seconds, processor_seconds=processor_seconds)


async def _copy(connections: "list[asyncpg.Connection[asyncpg.Record]]", chunks: Iterator[list[Row]]) -> None:
    """Copy all chunks; each connection takes the next one when it is done with one."""

    async def work(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        for chunk in chunks:
            await connection.copy_records_to_table(TABLE, schema_name=SCHEMA, records=chunk, columns=COLUMNS)

    async with asyncio.TaskGroup() as tasks:
        for connection in connections:
            tasks.create_task(work(connection))


def _chunks(source: Iterator[Row], count: int, size: int) -> list[list[Row]]:
    return [sorted(islice(source, min(size, count - begin))) for begin in range(0, count, size)]


if __name__ == "__main__":
    try:
        answer(uvloop.run(run(question(CopyPlan))))
    except* (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as problems:
        sys.exit(f"{problems.exceptions}")
