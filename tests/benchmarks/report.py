"""Results as a table on the terminal, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.benchmarks.suite import Measurement, Options, Results, Row

RATIOS = (
    (Row.RECORD, Row.ECHO, 0.60),
    (Row.BATCH, Row.COPY, 0.56),
    (Row.CHECK, Row.ECHO, None),
)
"""What is divided by what within each repetition, and what the prototype reached."""

_OTHERS_SHARE_MAX = 0.05


def title(row: Row, options: Options) -> str:
    """Return what a row is, in words."""
    match row:
        case Row.ECHO:
            return f"echo RPC, {options.in_flight} in flight"
        case Row.RECORD:
            return f"RecordCall durable, {options.in_flight} in flight"
        case Row.CHECK:
            return f"CheckServiceStatus, {options.in_flight} in flight"
        case Row.BATCH:
            return f"BatchRecordCalls of {options.batch:,} durable, {options.batches_in_flight} in flight"
        case Row.COPY:
            return "bare COPY of such rows, 2 connections"


@dataclass(frozen=True)
class Ratio:
    """A ratio within one repetition."""

    value: float
    undisturbed: bool
    """Others left the machine alone during both measurements."""


def ratios(results: Results) -> dict[tuple[Row, Row], list[Ratio]]:
    """Return the ratios of each repetition."""
    return {
        (above, below): [
            Ratio(
                one.calls_per_second / other.calls_per_second,
                undisturbed=max(one.others, other.others) <= _OTHERS_SHARE_MAX,
            )
            for one, other in zip(results.measurements[above], results.measurements[below], strict=True)
        ]
        for above, below, _ in RATIOS
        if above in results.measurements and below in results.measurements
    }


def show(results: Results, console: Console) -> None:
    """Print everything that is to be known."""
    console.print(_measurements(results))
    if found := ratios(results):
        console.print(_ratios(found))
    machine, options = results.machine, results.options
    console.print(
        f"Medians of {options.repetitions} repetitions of {options.seconds:g} s, after {options.warm_up_seconds:g} s of"
        f" warm-up; {options.workers} worker(s), {options.connections} connections, {options.accounts:,} accounts.\n"
        "a commit: calls in a transaction. µs: processor time of a call.\n"
        "load: of the process that makes the load. others: what others took of the machine.\n"
        f"Exact: all {results.acknowledged_calls:,} acknowledged calls are counted, account by account.\n"
    )
    console.print(
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:g} GB, {machine.system},"
        f" database on {machine.file_system}"
    )
    console.print(", ".join(f"{name} {version}" for name, version in machine.versions.items()))
    console.print(", ".join(f"{name}={value}" for name, value in machine.postgres_settings.items()))
    for warning in warnings(results):
        console.print(f"[yellow]Beware: {warning}")


def warnings(results: Results) -> list[str]:
    """Return what makes these numbers doubtful."""
    found = []
    machine = results.machine
    if machine.file_system == "tmpfs":
        found.append("the database is on a tmpfs, where nothing is durable and commits cost nothing.")
    if not machine.postgres_settings["fsync"] == machine.postgres_settings["synchronous_commit"] == "on":
        found.append("PostgreSQL does not wait for the disk.")
    others = [each.others for measurements in results.measurements.values() for each in measurements]
    if disturbed := sum(share > _OTHERS_SHARE_MAX for share in others):
        found.append(
            f"during {disturbed} of {len(others)} measurements, others took more than {_OTHERS_SHARE_MAX:.0%} of this"
            f" machine (at most {max(others):.0%})."
        )
    return found


def write_json(results: Results, file: Path) -> None:
    """Write everything to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **asdict(results),
        "ratios": {
            f"{above}/{below}": [asdict(ratio) for ratio in found] for (above, below), found in ratios(results).items()
        },
        "warnings": warnings(results),
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


def _measurements(results: Results) -> Table:
    table = Table(title="per second, medians", title_justify="left")
    table.add_column("")
    for heading in (
        "calls/s",
        "min",
        "max",
        "p50 ms",
        "p99 ms",
        "server µs",
        "postgres µs",
        "load µs",
        "a commit",
        "others",
    ):
        table.add_column(heading, justify="right")
    for row, measurements in results.measurements.items():
        rates = [each.calls_per_second for each in measurements]
        table.add_row(
            title(row, results.options),
            f"[bold]{median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            _median([each.p50_ms for each in measurements]),
            _median([each.p99_ms for each in measurements]),
            *(
                _micros([getattr(each, name) for each in measurements])
                for name in ("server_us", "postgres_us", "load_us")
            ),
            _median([each.calls_per_commit for each in measurements]),
            f"{median(each.others for each in measurements):.0%}",
        )
    return table


def _ratios(found: dict[tuple[Row, Row], list[Ratio]]) -> Table:
    table = Table(title="ratios within one repetition", title_justify="left")
    table.add_column("")
    for heading in ("median", "min", "max", "undisturbed", "prototype"):
        table.add_column(heading, justify="right")
    for above, below, prototype in RATIOS:
        if values := [ratio.value for ratio in found.get((above, below), ())]:
            undisturbed = [ratio.value for ratio in found[above, below] if ratio.undisturbed]
            table.add_row(
                f"{above} ÷ {below}",
                f"[bold]{median(values):.2f}",
                f"{min(values):.2f}",
                f"{max(values):.2f}",
                f"{median(undisturbed):.2f} (of {len(undisturbed)})" if undisturbed else "none",
                "" if prototype is None else f"{prototype:.2f}",
            )
    return table


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}" if known else ""


def _micros(values: Sequence[float]) -> str:
    return f"{median(values):.1f}" if any(values) else ""


def line(measurement: Measurement) -> str:
    """Return a measurement in a few words."""
    waits = "" if measurement.p99_ms is None else f", p99 {measurement.p99_ms:.1f} ms"
    commit = "" if measurement.calls_per_commit is None else f", {measurement.calls_per_commit:.1f} a commit"
    return f"{measurement.calls_per_second:,.0f} per second{waits}{commit}, others {measurement.others:.0%}"
