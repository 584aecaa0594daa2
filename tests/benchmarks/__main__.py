"""Measures the service beside what limits it: `python -m tests.benchmarks`, or `make bench` and `make bench-full`.

Its parts, in one run on one fresh PostgreSQL:

- table: throughput, of an RPC that does nothing (echo), RecordCall, CheckServiceStatus, a service that INSERTs each
  call, BatchRecordCalls, also with repeated calls, one account and 100,000 of them, and a bare COPY of the same rows;

- latency: of RecordCall and of echo at the same rates, from planned arrivals on (open loop);

- overload: three times as much load as can be taken;

- turn: RecordCall across folds, midnight, the turn of a month and its close;

- sizes: batches of 1 to 10,000 calls;

- memory: of the worker while it records;

- workers: two of them beside one;

- stored: a database with many calls beside an empty one.

On a noisy machine only ratios within a repetition mean something. At the end, every acknowledged call must be counted.
"""

import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from metering.embedded_postgres import EmbeddedPostgresError
from tests.benchmarks import parts, plots, report
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.results import Part, Results, Row
from tests.benchmarks.stored import stored
from tests.benchmarks.suite import Bench, Measurement, OpenMeasurement, Options, prepared

DIRECTORY = Path("build/bench")
_CONSOLE_WIDTH = 150
"""Where there is no terminal: wide enough for the table."""
_PARTS = [part.value for part in Part]
_BRIEF = [part for part in _PARTS if part not in {Part.WORKERS, Part.STORED}]
_ROWS = [row.value for row in Row]
_ONE_TO_MANY = click.IntRange(1, 1_000_000)


def option(name: str, kind: Any, default: Any, help: str | None = None) -> Callable[..., Any]:  # noqa: A002
    """Return an option that shows its default."""
    return click.option(name, type=kind, default=default, show_default=True, help=help)


@click.command(help=__doc__)
@click.option(
    "--part", "parts", type=click.Choice(_PARTS), multiple=True, default=_BRIEF, help="Only this; may be repeated."
)
@click.option("--full", is_flag=True, help="All parts, and more of each.")
@click.option("--row", "rows", type=click.Choice(_ROWS), multiple=True, default=_ROWS, help="Of the table; likewise.")
@option("--repetitions", click.IntRange(1, 100), 5)
@option("--seconds", click.FloatRange(0.1, 60), 1.2, "Of each measurement.")
@option("--warm-up", click.FloatRange(0.1, 60), 0.5, "Seconds before each.")
@option("--in-flight", click.IntRange(1, 10_000), 64, "Unary calls.")
@option("--connections", click.IntRange(1, 256), 4)
@option("--batch", click.IntRange(1, 10_000), 1_000, "Calls in a batch.")
@option("--batches-in-flight", click.IntRange(1, 1_000), 16)
@option("--gather-ms", click.FloatRange(0, 10), 0.5, "Answers read at once, in a closed loop.")
@option("--accounts", _ONE_TO_MANY, 1_000)
@option("--workers", click.IntRange(1, 64), 1, "Of the service and of echo.")
@option("--latency-seconds", click.FloatRange(1, 60), 2.0, "Of each measurement in an open loop.")
@option("--latency-repetitions", click.IntRange(1, 100), 3)
@option("--memory-calls", click.IntRange(1), 1_000_000, "Recorded while memory is watched; 10,000,000 with --full.")
@option("--stored", click.IntRange(0), 20_000_000, "Calls in the month, for the part stored.")
@option("--time-zone", str, "Asia/Shanghai", "Of billing.")
@click.option(
    "--plots", "plots_to", type=click.Path(path_type=Path), help="Where to draw plots. [default: build/bench]"
)
@click.option("--name", help="Of the JSON file in build/bench; by default the present time.")
def main(full: bool, plots_to: Path | None, name: str | None, **values: Any) -> None:  # noqa: FBT001
    """Measure, and show the results."""
    values["warm_up_seconds"] = values.pop("warm_up")
    values["gather_seconds"] = values.pop("gather_ms") / 1_000
    if full:
        values |= {"parts": tuple(Part), "memory_calls": 10 * values["memory_calls"], "latency_seconds": 4.0}
    options = Options(**values)
    console = Console(width=None if sys.stdout.isatty() else _CONSOLE_WIDTH, highlight=False)
    # Ended from outside, we end what we have started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))

    def tell(part: Part, what: str, measured: Measurement | OpenMeasurement | str) -> None:
        console.print(f"{part:<8}  {what:<32}  {report.line(measured)}")

    try:
        console.print("starting PostgreSQL, the service and the servers to compare it with …")
        with prepared(options, DIRECTORY) as bench:
            results = measure(bench, tell)
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")
    file = DIRECTORY / f"{name or datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}.json"
    report.write_json(results, file)
    report.show(results, console)
    drawn = plots.draw(results, plots_to or DIRECTORY)
    console.print(f"\nEverything measured: {', '.join(map(str, (file, *drawn)))}")


def measure(bench: Bench, tell: parts.Tell) -> Results:
    """Measure part by part, and check that no call was lost or counted twice."""
    results = Results(bench.options, bench.machine)
    for part in bench.options.parts:
        match Part(part):
            case Part.TABLE:
                results.rows = parts.table(bench, tell)
            case Part.LATENCY:
                results.latency = parts.latency(bench, tell)
            case Part.OVERLOAD:
                results.overload = parts.overload(bench, tell)
            case Part.TURN:
                results.turn = parts.turn(bench, tell)
            case Part.SIZES:
                results.sizes = parts.sizes(bench, tell)
            case Part.MEMORY:
                results.memory = parts.memory(bench, tell)
            case Part.WORKERS:
                results.workers = parts.workers(bench, tell)
            case Part.STORED:
                results.stored = stored(bench, tell)
    results.acknowledged_calls = bench.check()
    return results


if __name__ == "__main__":
    main()
