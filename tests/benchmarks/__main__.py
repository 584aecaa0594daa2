"""Measures the hot path beside what limits it: `python -m tests.benchmarks`, or `make bench`.

In one run, one after the other and over again:

- echo: an RPC that does nothing, the limit of unary calls in this stack;
- record: RecordCall, each call durable before it is acknowledged;
- check: CheckServiceStatus, answered from memory;
- batch: BatchRecordCalls, durable;
- copy: a bare COPY of the same rows into the same kind of table, the limit of durable rows under a key.

On a noisy machine only the ratios within a repetition mean something: record ÷ echo, batch ÷ copy, check ÷ echo.
"""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from metering.embedded_postgres import EmbeddedPostgresError
from tests.benchmarks import report
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.suite import Measurement, Options, Row, prepared

DIRECTORY = Path("build/bench")
_CONSOLE_WIDTH = 150
"""Where there is no terminal: wide enough for the table."""


@click.command(help=(__doc__ or "").replace("\n- ", "\n\n- "))
@click.option(
    "--row",
    "rows",
    type=click.Choice([row.value for row in Row]),
    multiple=True,
    default=[row.value for row in Row],
    help="Only this; may be repeated.",
)
@click.option("--repetitions", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.5, show_default=True, help="Of each measurement.")
@click.option("--warm-up", type=click.FloatRange(0.1, 60), default=0.5, show_default=True, help="Seconds before each.")
@click.option("--in-flight", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Unary calls.")
@click.option("--connections", type=click.IntRange(1, 256), default=4, show_default=True)
@click.option("--batch", type=click.IntRange(1, 10_000), default=1_000, show_default=True, help="Calls in a batch.")
@click.option("--batches-in-flight", type=click.IntRange(1, 1_000), default=8, show_default=True)
@click.option("--gather-ms", type=click.FloatRange(0, 10), default=0.5, show_default=True, help="Answers read at once.")
@click.option("--accounts", type=click.IntRange(1, 1_000_000), default=1_000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the service and of echo.")
@click.option("--time-zone", default="Asia/Shanghai", show_default=True, help="Of billing.")
@click.option("--name", help="Of the JSON file in build/bench; by default the present time.")
def main(
    rows: tuple[str, ...],
    repetitions: int,
    seconds: float,
    warm_up: float,
    in_flight: int,
    connections: int,
    batch: int,
    batches_in_flight: int,
    gather_ms: float,
    accounts: int,
    workers: int,
    time_zone: str,
    name: str | None,
) -> None:
    """Measure, and show the results."""
    options = Options(
        rows=tuple(row for row in Row if row in rows),
        repetitions=repetitions,
        warm_up_seconds=warm_up,
        seconds=seconds,
        in_flight=in_flight,
        connections=connections,
        batch=batch,
        batches_in_flight=batches_in_flight,
        gather_seconds=gather_ms / 1_000,
        accounts=accounts,
        workers=workers,
        time_zone=time_zone,
    )
    console = Console(width=None if sys.stdout.isatty() else _CONSOLE_WIDTH, highlight=False)
    # Ended from outside, we end what we have started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))

    def tell(repetition: int, row: Row, measurement: Measurement) -> None:
        console.print(f"{repetition + 1}/{repetitions}  {row:<6}  {report.line(measurement)}")

    try:
        console.print("starting PostgreSQL, the service and the echo server …")
        with prepared(options, DIRECTORY) as suite:
            results = suite.run(tell)
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")
    file = DIRECTORY / f"{name or datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}.json"
    report.write_json(results, file)
    report.show(results, console)
    console.print(f"\nEverything measured: {file}")


if __name__ == "__main__":
    main()
