"""What the issue about the limit of the machine asks for, and what was measured of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.results import Results, Row
from tests.benchmarks.suite import Measurement

HALF = 0.5
MEMORY_MB = 250
GROWTH_MB = 20
"""Memory that grows by no more than this from the middle to the end counts as flat."""
USAGE_MS = 5.0


@dataclass(frozen=True)
class Goal:
    """A line of the table."""

    what: str
    reach: str
    values: tuple[float, ...]
    """One for each repetition."""
    unit: str
    reached: bool


def goals(results: Results) -> list[Goal]:
    """Return the lines of which something was measured."""
    size = f"{results.options.batch:,}"
    found = [
        _ratio(results, Row.RECORD, Row.ECHO, "RecordCall durable ÷ echo", least=0.80, aim=0.90),
        _ratio(results, Row.BATCH, Row.COPY, f"BatchRecordCalls of {size} durable ÷ bare COPY", least=0.65, aim=0.80),
        _ratio(results, Row.REPEATS, Row.BATCH, "the same with 1 % delivered twice ÷ without", least=0.85),
        _ratio(results, Row.CHECK, Row.ECHO, "CheckServiceStatus ÷ echo", least=0.95),
        _ratio(results, Row.RECORD, Row.INSERT, "RecordCall ÷ INSERT of each call", least=3),
        _ratio(results, Row.BATCH, Row.INSERT, "BatchRecordCalls ÷ INSERT of each call", least=20),
        *(
            _ratio(results, above, below, f"{what}, {name}", least=0.8, most=1.25)
            for above, below, what, name in (
                (Row.RECORD_ONE, Row.RECORD, "RecordCall", "one account ÷ 1,000"),
                (Row.RECORD_MANY, Row.RECORD, "RecordCall", "100,000 accounts ÷ 1,000"),
                (Row.BATCH_ONE, Row.BATCH, "BatchRecordCalls", "one account ÷ 1,000"),
                (Row.BATCH_MANY, Row.BATCH, "BatchRecordCalls", "100,000 accounts ÷ 1,000"),
            )
        ),
        _latency(results),
        *_overload(results),
        *_stored(results),
        _memory(results),
    ]
    return [goal for goal in found if goal is not None]


def within(above: Sequence[Measurement], below: Sequence[Measurement]) -> tuple[float, ...]:
    """Return the ratios within each repetition."""
    return tuple(one.calls_per_second / other.calls_per_second for one, other in zip(above, below, strict=True))


def _ratio(
    results: Results,
    above: Row,
    below: Row,
    what: str,
    *,
    least: float,
    aim: float | None = None,
    most: float = float("inf"),
) -> Goal | None:
    if above not in results.rows or below not in results.rows:
        return None
    values = within(results.rows[above], results.rows[below])
    reach = f"{least:g} to {most:g}" if most < float("inf") else f"≥ {least:g}" + (f", aim {aim:g}" if aim else "")
    return _goal(what, reach, values, lambda value: least <= value <= most)


def _goal(what: str, reach: str, values: Sequence[float], enough: Callable[[float], bool], unit: str = "") -> Goal:
    return Goal(what, reach, tuple(values), unit, enough(median(values)))


def _latency(results: Results) -> Goal | None:
    """Return by how much p99 at half of the maximum exceeds twice echo's, in commits."""
    values = [
        point.record.load.p99_ms / (2 * point.echo.load.p99_ms + (point.record.commit_ms or 0.0))
        for point in results.latency
        if point.share == HALF
    ]
    if not values:
        return None
    what = "p99 of RecordCall at half of its maximum ÷ (2 × echo's + one commit)"
    return _goal(what, "≤ 1", values, lambda value: value <= 1)


def _overload(results: Results) -> list[Goal]:
    found = []
    for what in dict.fromkeys(each.what for each in results.overload):
        loads = [each for each in results.overload if each.what == what]
        name = f"under 3 × overload, {what}"
        found.append(_goal(f"throughput {name} ÷ maximum", "≥ 0.9", [each.ratio for each in loads], lambda v: v >= 0.9))
        told = [
            each.load.load.with_retry_info / refused
            for each in loads
            if (refused := each.load.load.planned - each.load.load.answers["OK"])
        ]
        if told:
            found.append(_goal(f"of what was not taken {name}: told when to retry", "1", told, lambda v: v == 1))
    return found


def _stored(results: Results) -> list[Goal]:
    if len(results.stored) <= 1:
        return []
    point = results.stored[-1]
    name = f"with {point.stored:,} stored calls"
    return [
        _goal(f"RecordCall {name} ÷ empty", "≥ 0.9", within(point.record, point.record_empty), lambda v: v >= 0.9),
        _goal(f"BatchRecordCalls {name} ÷ empty", "≥ 0.9", within(point.batch, point.batch_empty), lambda v: v >= 0.9),
        _goal(f"GetMonthlyUsage p99 {name}", "≤ 5 ms", [point.usage_ms[1]], lambda v: v <= USAGE_MS, "ms"),
        _goal("GetMonthlyUsage p99, few calls", "≤ 5 ms", [point.usage_empty_ms[1]], lambda v: v <= USAGE_MS, "ms"),
    ]


def _memory(results: Results) -> Goal | None:
    memory = results.memory
    if memory is None:
        return None
    growth = memory.end_mb - memory.samples_mb[len(memory.samples_mb) // 2]
    return Goal(
        f"memory of a worker over {memory.calls:,} calls, at most ({growth:+.0f} MB in the second half)",
        f"flat, ≤ {MEMORY_MB} MB",
        (memory.peak_mb,),
        "MB",
        memory.peak_mb <= MEMORY_MB and growth <= GROWTH_MB,
    )
