"""Results as tables on the terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.benchmarks.goals import goals, within
from tests.benchmarks.results import LatencyPoint, Overload, Results, Row, StoredPoint, Turn
from tests.benchmarks.suite import MANY_ACCOUNTS, Measurement, OpenMeasurement, Options

_OTHERS_SHARE_MAX = 0.05


def title(row: Row, options: Options) -> str:
    """Return what a row is, in words."""
    unary = f"{options.in_flight} in flight"
    batch = f"BatchRecordCalls of {options.batch:,}"
    return {
        Row.ECHO: f"echo RPC, {unary}",
        Row.RECORD: f"RecordCall durable, {unary}",
        Row.CHECK: f"CheckServiceStatus, {unary}",
        Row.INSERT: f"a service that INSERTs each call, {unary}",
        Row.RECORD_ONE: "RecordCall, one account",
        Row.RECORD_MANY: f"RecordCall, {MANY_ACCOUNTS:,} accounts",
        Row.BATCH: f"{batch} durable, {options.batches_in_flight} in flight",
        Row.COPY: "bare COPY of such rows, 2 connections",
        Row.REPEATS: f"{batch}, 1 % of them delivered twice",
        Row.BATCH_ONE: f"{batch}, one account",
        Row.BATCH_MANY: f"{batch}, {MANY_ACCOUNTS:,} accounts",
    }[row]


def show(results: Results, console: Console) -> None:
    """Print everything that is to be known."""
    machine, options = results.machine, results.options
    for heading, measured in (
        ("throughput", {title(row, options): found for row, found in results.rows.items()}),
        ("throughput of batches", {f"batches of {size:,}": found for size, found in results.sizes.items()}),
        ("workers", results.workers),
    ):
        if measured:
            console.print(_measurements(heading, measured))
    if results.latency:
        console.print(_latency(results.latency))
    if results.overload:
        console.print(_overload(results.overload))
    if results.turn:
        console.print(_turn(results.turn))
    if results.memory:
        memory = results.memory
        console.print(
            f"memory over {memory.calls:,} calls in {memory.seconds:.0f} s: {memory.start_mb:.0f} MB at the start,"
            f" {memory.end_mb:.0f} MB at the end, {memory.peak_mb:.0f} MB at most\n"
        )
    if results.stored:
        console.print(_stored(results.stored))
    console.print(_goals(results))
    console.print(
        f"Throughput: medians of {options.repetitions} repetitions of {options.seconds:g} s, after"
        f" {options.warm_up_seconds:g} s of warm-up; {options.workers} worker(s), {options.connections} connections,"
        f" {options.accounts:,} accounts. Ratios are formed within a repetition.\n"
        "a commit: calls in a transaction. µs: processor time of a call.\n"
        "load: of the process that makes the load. others: what others took of the machine.\n"
        f"Exact: all {results.acknowledged_calls:,} calls acknowledged on the first database are counted, account by"
        " account; those on others likewise.\n"
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
    others = [each.others for measurements in results.rows.values() for each in measurements]
    others += [each.others for point in results.latency for each in (point.echo, point.record)]
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
        "goals": [asdict(goal) for goal in goals(results)],
        "warnings": warnings(results),
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


def line(measured: Measurement | OpenMeasurement | str) -> str:
    """Return a measurement in a few words."""
    if isinstance(measured, str):
        return measured
    if isinstance(measured, OpenMeasurement):
        load = measured.load
        answers = ", ".join(f"{number:,} {status}" for status, number in load.answers.items())
        return (
            f"{measured.rate:,.0f} planned per second: {answers}; p50 {load.p50_ms:.1f}, p99 {load.p99_ms:.1f},"
            f" p99.9 {load.p999_ms:.1f} ms, others {measured.others:.0%}"
        )
    waits = "" if measured.p99_ms is None else f", p99 {measured.p99_ms:.1f} ms"
    commit = "" if measured.calls_per_commit is None else f", {measured.calls_per_commit:.1f} a commit"
    return f"{measured.calls_per_second:,.0f} per second{waits}{commit}, others {measured.others:.0%}"


def _table(heading: str, *columns: str) -> Table:
    table = Table(title=heading, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _goals(results: Results) -> Table:
    table = _table("goals", "what", "reach", "measured", "min", "max", "reached?")
    for goal in goals(results):
        numbers = (median(goal.values), min(goal.values), max(goal.values))
        texts = [
            f"{number:.0f} {goal.unit}" if goal.unit == "MB" else f"{number:.2f} {goal.unit}" for number in numbers
        ]
        table.add_row(goal.what, goal.reach, f"[bold]{texts[0]}", *texts[1:], "yes" if goal.reached else "no")
    return table


def _measurements(heading: str, measured: Mapping[str, Sequence[Measurement]]) -> Table:
    table = _table(
        f"{heading}, medians",
        *("", "calls/s", "min", "max", "p50 ms", "p99 ms", "server µs", "postgres µs", "load µs", "a commit", "others"),
    )
    for name, measurements in measured.items():
        rates = [each.calls_per_second for each in measurements]
        table.add_row(
            name,
            f"[bold]{median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            _median([each.p50_ms for each in measurements]),
            _median([each.p99_ms for each in measurements]),
            *(
                _micros([getattr(each, key) for each in measurements])
                for key in ("server_us", "postgres_us", "load_us")
            ),
            _median([each.calls_per_commit for each in measurements]),
            f"{median(each.others for each in measurements):.0%}",
        )
    return table


def _latency(points: Sequence[LatencyPoint]) -> Table:
    table = _table(
        "latency from the planned arrival, open loop, ms, medians",
        *("of the maximum", "per second", "echo p50", "p99", "p99.9", "RecordCall p50", "p99", "p99.9", "a commit"),
    )
    for share in dict.fromkeys(point.share for point in points):
        found = [point for point in points if point.share == share]
        table.add_row(
            f"{share:.0%}",
            f"{median(point.record.rate for point in found):,.0f}",
            *(
                _median([getattr(each.load, key) for each in measured])
                for measured in ([point.echo for point in found], [point.record for point in found])
                for key in ("p50_ms", "p99_ms", "p999_ms")
            ),
            _median([point.record.commit_ms for point in found]),
        )
    return table


def _overload(found: Sequence[Overload]) -> Table:
    table = _table(
        "three times the maximum, open loop",
        *("", "maximum", "OK ÷ maximum", "answers", "refused p50 ms", "p99 ms", "RetryInfo", "OK p99 ms"),
    )
    for each in found:
        load = each.load.load
        table.add_row(
            each.what,
            f"{each.maximum:,.0f}",
            f"[bold]{each.ratio:.2f}",
            ", ".join(f"{number:,} {status}" for status, number in load.answers.items()),
            f"{load.refused_p50_ms:.1f}",
            f"{load.refused_p99_ms:.1f}",
            f"{load.with_retry_info:,} of {load.answers.get('RESOURCE_EXHAUSTED', 0):,}",
            f"{load.p99_ms:.0f}",
        )
    return table


def _turn(turn: Turn) -> Table:
    seconds = turn.load.load.p99_ms_of_seconds
    at = turn.turn_second
    closing = at + turn.closed_after_seconds
    table = _table(
        "p99 of RecordCall, second by second, at half of its maximum (the service's clock is ahead, all else is real)",
        *("", "p99 ms"),
    )
    others = [wait for second, wait in enumerate(seconds) if abs(second - at) > 1 and abs(second - closing) > 1]
    around = [f"{wait:.0f}" for wait in seconds[max(0, at - 1) : at + 2]]
    closed = [f"{wait:.0f}" for wait in seconds[max(0, int(closing) - 1) : int(closing) + 2]]
    table.add_row("a median second (a fold in each)", f"{median(others):.1f}")
    table.add_row("the worst second without a turn", f"{max(others):.1f}")
    table.add_row("the seconds around midnight and the turn of the month", ", ".join(around))
    table.add_row(
        f"those around its close ({turn.bills:,} bills, {turn.closed_after_seconds:.0f} s later)",
        ", ".join(closed) or "not within the load",
    )
    return table


def _stored(points: Sequence[StoredPoint]) -> Table:
    table = _table(
        "a database with calls beside an empty one, medians",
        *("stored", "RecordCall/s", "÷ empty", "BatchRecordCalls/s", "÷ empty", "GetMonthlyUsage p50 ms", "p99 ms"),
        *("empty p50 ms", "p99 ms"),
    )
    for point in points:
        table.add_row(
            f"{point.stored:,}",
            f"{median(each.calls_per_second for each in point.record):,.0f}",
            f"[bold]{median(within(point.record, point.record_empty)):.2f}",
            f"{median(each.calls_per_second for each in point.batch):,.0f}",
            f"[bold]{median(within(point.batch, point.batch_empty)):.2f}",
            *(f"{wait:.1f}" for wait in (*point.usage_ms, *point.usage_empty_ms)),
        )
    return table


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}" if known else ""


def _micros(values: Sequence[float]) -> str:
    return f"{median(values):.1f}" if any(values) else ""
