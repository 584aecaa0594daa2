"""What is measured, one after the other and over again, so that a noisy moment hits everything alike."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from tests.benchmarks import copy_rows, service
from tests.benchmarks.accounts import AccountsPlan, UsageCheck
from tests.benchmarks.calls import Traffic
from tests.benchmarks.copy_rows import CopyPlan, CopyResult
from tests.benchmarks.load import LoadPlan, LoadResult, Method
from tests.benchmarks.machine import Machine, describe
from tests.benchmarks.processes import BenchmarkError, ask, python, running
from tests.benchmarks.processors import ProcessorTime, processor_time
from tests.benchmarks.service import Service

COPY_ROWS = 300_000
"""Rows to COPY while it is not known how many BatchRecordCalls writes in its time."""
COPY_CONNECTIONS = 2
ROWS_A_COPY = 10_000
SLACK_SECONDS = 120
"""So much longer than planned may a measurement take, before it is given up."""
ACCOUNT_SECONDS_MAX = 0.02
"""So long may it take to activate an account, or to read its usage."""


class Row(StrEnum):
    """A line of the table."""

    ECHO = "echo"
    RECORD = "record"
    CHECK = "check"
    BATCH = "batch"
    COPY = "copy"


@dataclass(frozen=True)
class Options:
    """How to measure."""

    rows: tuple[Row, ...]
    repetitions: int
    warm_up_seconds: float
    seconds: float
    in_flight: int
    """Unary calls in flight, over all connections."""
    connections: int
    batch: int
    """Calls in a BatchRecordCalls."""
    batches_in_flight: int
    gather_seconds: float
    accounts: int
    workers: int
    time_zone: str


@dataclass(frozen=True)
class Measurement:
    """One measurement. A call is one request, but for BatchRecordCalls one of its records, for COPY a row."""

    calls_per_second: float
    p50_ms: float | None
    """Of the requests. None for COPY, which has none."""
    p99_ms: float | None
    server_us: float
    """Processor time that a call takes of the server, in microseconds, but for PostgreSQL."""
    postgres_us: float
    load_us: float
    """The same of who makes the load."""
    calls_per_commit: float | None
    """None for what commits nothing."""
    others: float
    """The share of the machine that had nothing to do with the benchmark: with more than a few per cent, beware."""


@dataclass
class Results:
    """All measurements."""

    options: Options
    machine: Machine
    acknowledged_calls: int = 0
    """Found to be the number of calls counted, account by account."""
    measurements: dict[Row, list[Measurement]] = field(default_factory=dict)


@contextmanager
def prepared(options: Options, directory: Path) -> Iterator["Suite"]:
    """Start everything that is measured, and end it.

    Args:
        options: how to measure.
        directory: where a directory for the database is made, and removed afterwards.

    """
    traffic = Traffic(accounts=options.accounts, second=int(time.time()), time_zone=options.time_zone)
    with ExitStack() as stack:
        database_url = stack.enter_context(service.fresh_postgres(directory))
        real = stack.enter_context(service.running_service(database_url, options.time_zone, options.workers))
        check_usage(real, traffic, activate=True)
        asyncio.run(copy_rows.make_table(database_url, traffic))
        echoes = [stack.enter_context(_echo(0))]
        while len(echoes) < options.workers:
            echoes.append(stack.enter_context(_echo(echoes[0][1])))
        yield Suite(options, traffic, real, echoes, describe(database_url, directory))


@contextmanager
def _echo(port: int) -> Iterator[tuple[int, int]]:
    """Run an echo server; give its process and its port."""
    with running(python("tests.benchmarks.echo", str(port)), stdout=subprocess.PIPE, stderr=None) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchmarkError("the echo server does not start")
        yield process.pid, int(line)


class Suite:
    """Measures."""

    def __init__(
        self, options: Options, traffic: Traffic, real: Service, echoes: list[tuple[int, int]], machine: Machine
    ) -> None:
        self._options = options
        self._traffic = traffic
        self._service = real
        self._echoes = echoes
        self._results = Results(options, machine, measurements={row: [] for row in options.rows})
        self._acknowledged: list[int] = []
        self._copied = 0
        self._batch_calls = COPY_ROWS

    def run(self, tell: Callable[[int, Row, Measurement], None]) -> Results:
        """Measure every row once, then again; check that all calls were counted exactly.

        Args:
            tell: is called with the number of the repetition and each measurement.

        Raises:
            BenchmarkError: something failed, or usage is not exact.

        """
        for repetition in range(self._options.repetitions):
            for row in self._options.rows:
                measurement = self._measure(row)
                self._results.measurements[row].append(measurement)
                tell(repetition, row, measurement)
        self._results.acknowledged_calls = check_usage(self._service, self._traffic, self._acknowledged)
        rows = asyncio.run(copy_rows.count_rows(self._service.database_url))
        if rows != self._copied:
            raise BenchmarkError(f"{self._copied} rows were copied, but the table has {rows}")
        return self._results

    def _measure(self, row: Row) -> Measurement:
        asyncio.run(service.settle(self._service.database_url))
        match row:
            case Row.ECHO:
                return self._load(Method.RECORD_CALL, [process for process, _ in self._echoes], self._echoes[0][1])
            case Row.RECORD:
                return self._load(Method.RECORD_CALL, [self._service.process], self._service.port)
            case Row.CHECK:
                return self._load(Method.CHECK_SERVICE_STATUS, [self._service.process], self._service.port)
            case Row.BATCH:
                return self._load(Method.BATCH_RECORD_CALLS, [self._service.process], self._service.port)
            case Row.COPY:
                return self._copy()

    def _load(self, method: Method, servers: list[int], port: int) -> Measurement:
        options = self._options
        batched = method is Method.BATCH_RECORD_CALLS
        plan = LoadPlan(
            host=self._service.host,
            port=port,
            method=method,
            connections=options.connections,
            in_flight=options.batches_in_flight if batched else options.in_flight,
            batch=options.batch if batched else 1,
            warm_up_seconds=options.warm_up_seconds,
            seconds=options.seconds,
            gather_seconds=options.gather_seconds,
            traffic=self._traffic,
        )
        commits, committed = self._service.commits()
        with _Watch(servers) as watch:
            result = ask(
                "tests.benchmarks.load", plan, LoadResult, options.warm_up_seconds + options.seconds + SLACK_SECONDS
            )
        commits, committed = (
            now - before for now, before in zip(self._service.commits(), (commits, committed), strict=True)
        )
        if method is not Method.CHECK_SERVICE_STATUS and self._service.process in servers:
            self._acknowledged.append(result.calls_in_all)
        if batched:
            self._batch_calls = result.calls_in_all
        return Measurement(
            calls_per_second=result.calls / result.seconds,
            p50_ms=result.p50_ms,
            p99_ms=result.p99_ms,
            server_us=1e6 * watch.taken.server / result.calls_in_all,
            postgres_us=1e6 * watch.taken.postgres / result.calls_in_all,
            load_us=1e6 * result.processor_seconds / result.calls,
            calls_per_commit=committed / commits if commits else None,
            others=watch.others,
        )

    def _copy(self) -> Measurement:
        """COPY as many rows as BatchRecordCalls has just written, so that both tables grow alike."""
        warm_up = self._batch_calls // 5
        plan = CopyPlan(
            url=self._service.database_url,
            connections=COPY_CONNECTIONS,
            rows=self._batch_calls - warm_up,
            rows_a_copy=ROWS_A_COPY,
            warm_up_rows=warm_up,
            traffic=self._traffic,
        )
        with _Watch([]) as watch:
            result = ask("tests.benchmarks.copy_rows", plan, CopyResult, SLACK_SECONDS)
        self._copied += self._batch_calls
        return Measurement(
            calls_per_second=result.rows / result.seconds,
            p50_ms=None,
            p99_ms=None,
            server_us=0.0,
            postgres_us=1e6 * watch.taken.postgres / self._batch_calls,
            load_us=1e6 * result.processor_seconds / result.rows,
            calls_per_commit=ROWS_A_COPY,
            others=watch.others,
        )


def check_usage(real: Service, traffic: Traffic, acknowledged: Sequence[int] = (), *, activate: bool = False) -> int:
    """Compare the calls that were acknowledged with what GetMonthlyUsage tells of each account; return their number.

    Args:
        real: the service.
        traffic: whose accounts they are.
        acknowledged: how many calls were acknowledged in each load.
        activate: whether to activate the accounts first.

    Raises:
        BenchmarkError: they differ.

    """
    plan = AccountsPlan(real.target, traffic, activate, tuple(acknowledged))
    check = ask("tests.benchmarks.accounts", plan, UsageCheck, SLACK_SECONDS + ACCOUNT_SECONDS_MAX * traffic.accounts)
    if check.different:
        examples = "; ".join(check.different[:5])
        raise BenchmarkError(f"usage is not exact for {len(check.different)} accounts: {examples} …")
    return check.calls


class _Watch:
    """Watches what the processors do during a block."""

    def __init__(self, servers: list[int]) -> None:
        self._servers = servers
        self.taken = ProcessorTime()
        self.others = 0.0

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._before = processor_time(self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = processor_time(self._servers) - self._before
        seconds = (time.monotonic() - self._begin) * (os.cpu_count() or 1)
        self.others = max(0.0, self.taken.machine - self.taken.ours) / seconds
