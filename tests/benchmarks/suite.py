"""What all parts of the benchmark are made of: the servers, and one measurement of one of them."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks import books, copy_rows, service
from tests.benchmarks.calls import Traffic
from tests.benchmarks.copy_rows import CopyPlan, CopyResult
from tests.benchmarks.load import LoadPlan, LoadResult, Method
from tests.benchmarks.machine import Machine, describe
from tests.benchmarks.open_load import OpenPlan, OpenResult
from tests.benchmarks.processes import BenchmarkError, ask
from tests.benchmarks.processors import Watch
from tests.benchmarks.service import Server, Service

COPY_ROWS = 300_000
"""Rows to COPY while it is not known how many BatchRecordCalls writes in its time."""
COPY_CONNECTIONS = 2
ROWS_A_COPY = 10_000
SLACK_SECONDS = 120
"""So much longer than planned may a measurement take, before it is given up."""
CALLS_IN_FLIGHT_MAX = 16_000
"""In batches, in a closed loop: the service queues 20,000 at the most."""
MANY_ACCOUNTS = 100_000
"""For the question whether speed depends on how many accounts there are."""


@dataclass(frozen=True)
class Options:
    """How to measure."""

    parts: tuple[str, ...]
    rows: tuple[str, ...]
    """Of the table of throughput."""
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
    latency_seconds: float
    """Of each measurement of latency, and of overload."""
    latency_repetitions: int
    memory_calls: int
    """Recorded while memory is watched."""
    stored: int
    """Calls in the month, for the question whether speed depends on how many are stored."""


@dataclass(frozen=True)
class Measurement:
    """One measurement in a closed loop. A call is one request, but for BatchRecordCalls a record, for COPY a row."""

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


@dataclass(frozen=True)
class OpenMeasurement:
    """One measurement in an open loop."""

    rate: float
    """Requests planned a second."""
    load: OpenResult
    commit_ms: float | None
    """What a commit took at that time, on average; None for what commits nothing."""
    others: float


@contextmanager
def prepared(options: Options, directory: Path) -> Iterator["Bench"]:
    """Start everything that is measured, and end it.

    Args:
        options: how to measure.
        directory: where a directory for the database is made, and removed afterwards.

    """
    traffic = Traffic(accounts=options.accounts, second=int(time.time()), time_zone=options.time_zone)
    with ExitStack() as stack:
        database_url = stack.enter_context(service.fresh_postgres(directory))
        real = stack.enter_context(service.running_service(database_url, options.time_zone, options.workers))
        books.activate(database_url, max(MANY_ACCOUNTS, options.accounts))
        asyncio.run(copy_rows.make_tables(database_url, traffic))
        echo = stack.enter_context(service.running_echo(options.workers))
        insert = stack.enter_context(
            service.running_server("tests.benchmarks.insert", "0", database_url, options.time_zone)
        )
        bench = Bench(options, traffic, real, echo, insert, describe(database_url, directory))
        yield bench


class Bench:
    """Measures one thing at a time."""

    def __init__(
        self, options: Options, traffic: Traffic, real: Service, echo: Server, insert: Server, machine: Machine
    ) -> None:
        self.options = options
        self.traffic = traffic
        self.service = real
        self.echo = echo
        self.insert = insert
        self.machine = machine
        self._inserted = 0
        self._copied = 0
        self._copy_rows = COPY_ROWS

    def closed(
        self,
        server: Server,
        method: Method,
        *,
        batch: int = 1,
        repeats: int = 0,
        accounts: int | None = None,
        seconds: float | None = None,
    ) -> Measurement:
        """Measure what a server takes while so many requests are in flight all the time."""
        options = self.options
        seconds = seconds or options.seconds
        batched = method is Method.BATCH_RECORD_CALLS
        plan = LoadPlan(
            host=server.host,
            port=server.port,
            method=method,
            connections=options.connections,
            in_flight=max(1, min(options.batches_in_flight, CALLS_IN_FLIGHT_MAX // batch))
            if batched
            else options.in_flight,
            batch=batch,
            repeats=repeats,
            warm_up_seconds=options.warm_up_seconds,
            seconds=seconds,
            gather_seconds=options.gather_seconds,
            traffic=replace(self.traffic, accounts=accounts or self.traffic.accounts),
        )
        real = server if isinstance(server, Service) else None
        self._settle(server)
        before = real.commits() if real else None
        with Watch(server.processes) as watch:
            result = ask("tests.benchmarks.load", plan, LoadResult, options.warm_up_seconds + seconds + SLACK_SECONDS)
        commits = real.commits() - before if real and before else None
        if method is not Method.CHECK_SERVICE_STATUS:
            if real:
                real.books.acknowledged.update(plan.traffic.calls_of_accounts(result.new_calls))
            elif server is self.insert:
                self._inserted += result.new_calls
        if batched:
            self._copy_rows = result.calls_in_all
        return Measurement(
            calls_per_second=result.calls / result.seconds,
            p50_ms=result.p50_ms,
            p99_ms=result.p99_ms,
            server_us=1e6 * watch.taken.server / result.calls_in_all,
            postgres_us=1e6 * watch.taken.postgres / result.calls_in_all,
            load_us=1e6 * result.processor_seconds / result.calls,
            calls_per_commit=commits.calls / commits.number if commits and commits.number else None,
            others=watch.others,
        )

    def open(
        self,
        server: Server,
        rate: float,
        seconds: float,
        *,
        batch: int = 1,
        warm_up_seconds: float | None = None,
        shift_seconds: float = 0.0,
    ) -> OpenMeasurement:
        """Measure how long requests take that come at a rate of their own."""
        options = self.options
        warm_up_seconds = options.warm_up_seconds if warm_up_seconds is None else warm_up_seconds
        plan = OpenPlan(
            host=server.host,
            port=server.port,
            connections=options.connections,
            rate=rate,
            batch=batch,
            warm_up_seconds=warm_up_seconds,
            seconds=seconds,
            shift_seconds=shift_seconds,
            traffic=self.traffic,
        )
        real = server if isinstance(server, Service) else None
        if not shift_seconds:
            self._settle(server)
        before = real.commits() if real else None
        with Watch(server.processes) as watch:
            result = ask("tests.benchmarks.open_load", plan, OpenResult, warm_up_seconds + seconds + SLACK_SECONDS)
        commits = real.commits() - before if real and before else None
        if real:
            real.books.acknowledged.update(result.acknowledged)
            real.books.unknown.update(result.unknown)
        commit_ms = 1_000 * commits.seconds / commits.number if commits and commits.number else None
        return OpenMeasurement(rate, replace(result, acknowledged={}, unknown={}), commit_ms, watch.others)

    def copy(self) -> Measurement:
        """COPY as many rows as BatchRecordCalls has just written, so that both tables grow alike."""
        self._settle(self.service)
        warm_up = self._copy_rows // 5
        plan = CopyPlan(
            url=self.service.database_url,
            connections=COPY_CONNECTIONS,
            rows=self._copy_rows - warm_up,
            rows_a_copy=ROWS_A_COPY,
            warm_up_rows=warm_up,
            traffic=self.traffic,
        )
        with Watch(()) as watch:
            result = ask("tests.benchmarks.copy_rows", plan, CopyResult, SLACK_SECONDS)
        self._copied += self._copy_rows
        return Measurement(
            calls_per_second=result.rows / result.seconds,
            p50_ms=None,
            p99_ms=None,
            server_us=0.0,
            postgres_us=1e6 * watch.taken.postgres / self._copy_rows,
            load_us=1e6 * result.processor_seconds / result.rows,
            calls_per_commit=ROWS_A_COPY,
            others=watch.others,
        )

    def check(self) -> int:
        """Check that all acknowledged calls are there, exactly once; return their number.

        Raises:
            BenchmarkError: they are not.

        """
        calls = self.service.books.check(self.service.database_url, self.service.target, self.traffic)
        copied, inserted = asyncio.run(copy_rows.count_rows(self.service.database_url))
        if (copied, inserted) != (self._copied, self._inserted):
            raise BenchmarkError(
                f"{self._copied} rows were copied and {self._inserted} inserted, but there are {copied} and {inserted}"
            )
        return calls

    def _settle(self, server: Server) -> None:
        """Wait until nothing is left to be done of what was measured before."""
        database_url = server.database_url if isinstance(server, Service) else self.service.database_url
        asyncio.run(service.settle(database_url))
