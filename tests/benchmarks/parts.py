"""The parts of the benchmark, but for the stored calls: what is measured of what, and how often."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import asyncpg

from tests.benchmarks import books
from tests.benchmarks.load import Method
from tests.benchmarks.processes import BenchmarkError, resident_mb
from tests.benchmarks.results import LatencyPoint, Memory, Overload, Part, Row, Turn
from tests.benchmarks.service import another_database, running_echo, running_service
from tests.benchmarks.suite import MANY_ACCOUNTS, Bench, Measurement, OpenMeasurement

Tell = Callable[[Part, str, Measurement | OpenMeasurement | str], None]
"""Is told of each measurement: the part, what was measured, what came of it."""

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""At which shares of RecordCall's own maximum latencies are measured."""
SIZES = (1, 10, 100, 1_000, 10_000)
SIZE_REPETITIONS = 3
OVERLOAD = 3.0
REPEATED_SHARE = 0.01
TURN_SECONDS_MAX = 62
"""The monthly run looks once a minute, from the start of the service on, whether a month has ended."""
_TURN_AFTER_SECONDS = 35
"""So long after the service's start does the month turn."""
_RSS_SECONDS = 1.0
_CLOSED_SECONDS_MAX = 90
_MEMORY_LOAD_SECONDS = 10.0


def measure_row(bench: Bench, row: Row) -> Measurement:
    """Measure a line of the table once."""
    if row is Row.COPY:
        return bench.copy()
    size = bench.options.batch
    unary = partial(bench.closed, method=Method.RECORD_CALL)
    batches = partial(bench.closed, bench.service, Method.BATCH_RECORD_CALLS, batch=size)
    measure: dict[Row, Callable[[], Measurement]] = {
        Row.ECHO: partial(unary, bench.echo),
        Row.RECORD: partial(unary, bench.service),
        Row.CHECK: partial(bench.closed, bench.service, Method.CHECK_SERVICE_STATUS),
        Row.INSERT: partial(unary, bench.insert),
        Row.RECORD_ONE: partial(unary, bench.service, accounts=1),
        Row.RECORD_MANY: partial(unary, bench.service, accounts=MANY_ACCOUNTS),
        Row.BATCH: batches,
        Row.REPEATS: partial(batches, repeats=max(1, round(size * REPEATED_SHARE))),
        Row.BATCH_ONE: partial(batches, accounts=1),
        Row.BATCH_MANY: partial(batches, accounts=MANY_ACCOUNTS),
    }
    return measure[row]()


def table(bench: Bench, tell: Tell) -> dict[Row, list[Measurement]]:
    """Measure all lines, one after the other and over again, so that a noisy moment hits everything alike."""
    rows = [Row(row) for row in bench.options.rows]
    if not {Row.RECORD_MANY, Row.BATCH_MANY}.isdisjoint(rows):
        # The service looks each account up once, which is not what is to be measured.
        bench.closed(bench.service, Method.BATCH_RECORD_CALLS, batch=1_000, accounts=MANY_ACCOUNTS, seconds=3)
    found: dict[Row, list[Measurement]] = {row: [] for row in rows}
    for _ in range(bench.options.repetitions):
        for row in rows:
            found[row].append(measure_row(bench, row))
            tell(Part.TABLE, row, found[row][-1])
    return found


def latency(bench: Bench, tell: Tell) -> list[LatencyPoint]:
    """Measure latencies at shares of RecordCall's maximum, those of echo at the same rates."""
    seconds, found = bench.options.latency_seconds, []
    for _ in range(bench.options.latency_repetitions):
        maximum = bench.closed(bench.service, Method.RECORD_CALL)
        tell(Part.LATENCY, "maximum", maximum)
        for share in SHARES:
            rate = share * maximum.calls_per_second
            echo = bench.open(bench.echo, rate, seconds)
            tell(Part.LATENCY, f"echo at {share:.0%}", echo)
            record = bench.open(bench.service, rate, seconds)
            tell(Part.LATENCY, f"record at {share:.0%}", record)
            found.append(LatencyPoint(share, echo, record))
    return found


def overload(bench: Bench, tell: Tell) -> list[Overload]:
    """Send more than can be taken."""
    found = []
    for _ in range(bench.options.latency_repetitions):
        for what, method, size in (
            ("batches", Method.BATCH_RECORD_CALLS, bench.options.batch),
            ("unary calls", Method.RECORD_CALL, 1),
        ):
            maximum = bench.closed(bench.service, method, batch=size)
            tell(Part.OVERLOAD, f"{what}, maximum", maximum)
            rate = OVERLOAD * maximum.calls_per_second / size
            load = bench.open(bench.service, rate, bench.options.latency_seconds, batch=size)
            tell(Part.OVERLOAD, f"{what}, {OVERLOAD:g} times it", load)
            found.append(Overload(what, size, maximum.calls_per_second, load))
    return found


def sizes(bench: Bench, tell: Tell) -> dict[int, list[Measurement]]:
    """Measure batches of different sizes."""
    found: dict[int, list[Measurement]] = {size: [] for size in SIZES}
    for _ in range(min(SIZE_REPETITIONS, bench.options.repetitions)):
        for size in SIZES:
            found[size].append(bench.closed(bench.service, Method.BATCH_RECORD_CALLS, batch=size))
            tell(Part.SIZES, f"batches of {size:,}", found[size][-1])
    return found


def workers(bench: Bench, tell: Tell) -> dict[str, list[Measurement]]:
    """Measure two workers beside one, each on a database of its own, and two echo servers beside one."""
    url = another_database(bench.service.database_url, "two_workers")
    methods = {"record": Method.RECORD_CALL, "batch": Method.BATCH_RECORD_CALLS}
    found: dict[str, list[Measurement]] = {}
    with running_service(url, bench.options.time_zone, 2) as two, running_echo(2) as two_echoes:
        books.activate(url, bench.options.accounts)
        for _ in range(bench.options.repetitions):
            for name, server, method in (
                ("echo, 1 worker", bench.echo, "record"),
                ("echo, 2 workers", two_echoes, "record"),
                *(
                    (f"{each}, {count}", server, each)
                    for each in methods
                    for count, server in (("1 worker", bench.service), ("2 workers", two))
                ),
            ):
                size = bench.options.batch if method == "batch" else 1
                found.setdefault(name, []).append(bench.closed(server, methods[method], batch=size))
                tell(Part.WORKERS, name, found[name][-1])
        two.books.check(url, two.target, bench.traffic)
    return found


def memory(bench: Bench, tell: Tell) -> Memory:
    """Watch the memory of the worker while so many calls are recorded in batches."""
    recorded, begin = 0, time.monotonic()
    with _watched_memory(bench.service.processes[0]) as samples:
        while recorded < bench.options.memory_calls:
            before = bench.service.books.acknowledged.total()
            measurement = bench.closed(
                bench.service, Method.BATCH_RECORD_CALLS, batch=bench.options.batch, seconds=_MEMORY_LOAD_SECONDS
            )
            recorded += bench.service.books.acknowledged.total() - before
            tell(Part.MEMORY, f"{samples[-1]:.0f} MB, {recorded:,} calls", measurement)
    return Memory(recorded, time.monotonic() - begin, samples[0], samples[-1], max(samples), tuple(samples))


@contextmanager
def _watched_memory(process: int) -> Iterator[list[float]]:
    """Take down the resident memory of a process, in MB, once a second while the block runs."""
    samples = [resident_mb(process)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_RSS_SECONDS):
            samples.append(resident_mb(process))

    thread = threading.Thread(target=watch, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        samples.append(resident_mb(process))


def turn(bench: Bench, tell: Tell) -> Turn:
    """Record at half of the maximum while the month turns.

    The clock of the service is set ahead, so that the month turns while it runs, and calls occur ahead by as much.
    All else is real: the folds once a second, the new day's partition, and the monthly run that closes the month.
    """
    maximum = bench.closed(bench.service, Method.RECORD_CALL)
    tell(Part.TURN, "maximum", maximum)
    url = another_database(bench.service.database_url, "turn")
    now = datetime.now(ZoneInfo(bench.options.time_zone))
    first = (now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)
    shift_seconds = first.timestamp() - time.time() - _TURN_AFTER_SECONDS
    with running_service(url, bench.options.time_zone, 1, shift_seconds=shift_seconds) as shifted:
        books.activate(url, bench.options.accounts)
        rate = maximum.calls_per_second / 2
        load = bench.open(shifted, rate, TURN_SECONDS_MAX, warm_up_seconds=2, shift_seconds=shift_seconds)
        tell(Part.TURN, "half of it, across the turn of a month", load)
        turned_at = first.timestamp() - shift_seconds
        closed_at, bills = asyncio.run(_closed(url, first.date()))
        days = asyncio.run(_days(url))
        shifted.books.check_tables(url)
    return Turn(load, int(turned_at - load.load.begin), days, closed_at - first.timestamp(), bills)


async def _closed(url: str, first: date) -> tuple[float, int]:
    """Wait until the month before is closed; return when it was, by the service's clock, and the bills issued."""
    before = (first - timedelta(days=1)).replace(day=1)
    connection = await asyncpg.connect(url)
    try:
        end = time.monotonic() + _CLOSED_SECONDS_MAX
        while not (at := await connection.fetchval("SELECT closed_at FROM months WHERE month = $1", before)):
            if time.monotonic() > end:
                raise BenchmarkError(f"the month {before:%Y-%m} was not closed within {_CLOSED_SECONDS_MAX} s")
            await asyncio.sleep(0.2)
        bills = await connection.fetchval("SELECT count(*) FROM bills WHERE month = $1", before)
    finally:
        await connection.close()
    return at.timestamp(), bills


async def _days(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        days: int = await connection.fetchval("SELECT count(DISTINCT occurred_on) FROM calls")
    finally:
        await connection.close()
    return days
