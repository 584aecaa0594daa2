"""Results as plots: SVG, written by hand, since three small plots are not worth a library in every clone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

from tests.benchmarks.results import LatencyPoint, Results
from tests.benchmarks.suite import Measurement

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 100, 190, 50, 60
_COLORS = ("#1f6feb", "#d1570a", "#2da44e", "#8250df")
_TICKS = 6
_STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.title{font-size:15px;font-weight:bold}.grid{stroke:#d0d7de}"
    ".line{fill:none;stroke-width:2}"
)


@dataclass(frozen=True)
class Line:
    """A line of a plot."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False
    color: int = 0


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what was measured; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, title, x_title, y_title, lines, logarithmic in (
        (
            "latency",
            "Latency against rate, open loop",
            "calls a second",
            "ms (logarithmic)",
            _latency(results.latency),
            (False, True),
        ),
        (
            "batch-size",
            "Throughput against batch size",
            "calls in a batch (logarithmic)",
            "durable calls a second (logarithmic)",
            [Line("BatchRecordCalls", tuple((size, _rate(each)) for size, each in results.sizes.items()))],
            (True, True),
        ),
        (
            "stored-calls",
            "Throughput against stored calls",
            "million calls stored in the month",
            "durable calls a second (logarithmic)",
            [
                Line(what, tuple((point.stored / 1e6, _rate(found)) for point, found in measured), dashed, color)
                for what, dashed, color, measured in (
                    ("batches of 1,000", False, 0, [(each, each.batch) for each in results.stored]),
                    ("the same, empty", True, 0, [(each, each.batch_empty) for each in results.stored]),
                    ("RecordCall", False, 1, [(each, each.record) for each in results.stored]),
                    ("the same, empty", True, 1, [(each, each.record_empty) for each in results.stored]),
                )
            ],
            (False, True),
        ),
    ):
        if any(len(line.points) > 1 for line in lines):
            file = directory / f"bench-{name}.svg"
            file.write_text(_plot(title, x_title, y_title, lines, logarithmic))
            drawn.append(file)
    return drawn


def _rate(measurements: Iterable[Measurement]) -> float:
    return median(each.calls_per_second for each in measurements)


def _latency(points: Sequence[LatencyPoint]) -> list[Line]:
    by_share = {each.share: [other for other in points if other.share == each.share] for each in points}
    rate = {share: median(point.record.rate for point in found) for share, found in by_share.items()}
    return [
        Line(
            f"{name} {label}",
            tuple(
                (rate[share], median(getattr(getattr(point, attribute).load, key) for point in found))
                for share, found in by_share.items()
            ),
            dashed=key == "p50_ms",
            color=color,
        )
        for color, (name, attribute) in enumerate((("RecordCall", "record"), ("echo", "echo")))
        for label, key in (("p99", "p99_ms"), ("p50", "p50_ms"))
    ]


class _Axis:
    """Where values lie between two places."""

    def __init__(self, values: Sequence[float], begin: float, end: float, *, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._begin, self._end = begin, end
        if logarithmic:
            self.ticks = _logarithmic_ticks(min(values), max(values))
        else:
            step = _round(max(values) / (_TICKS - 1))
            self.ticks = [number * step for number in range(math.ceil(max(values) / step) + 1)]
        self._low, self._high = self._scaled(self.ticks[0]), self._scaled(self.ticks[-1])

    def place(self, value: float) -> float:
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, … around the values; only the powers of ten if those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(index for index, tick in enumerate(fine) if tick <= low)
    last = min(index for index, tick in enumerate(fine) if tick >= high)
    wanted = fine[first : max(last, first + 1) + 1]
    return wanted if len(wanted) <= _TICKS + 2 else [10.0**power for power in powers]


def _round(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step)


def _plot(title: str, x_title: str, y_title: str, lines: Sequence[Line], logarithmic: tuple[bool, bool]) -> str:
    points = [point for line in lines for point in line.points]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x = _Axis([point[0] for point in points], _LEFT, right, logarithmic=logarithmic[0])
    y = _Axis([point[1] for point in points], bottom, _TOP, logarithmic=logarithmic[1])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text class="title" x="{_LEFT}" y="26">{escape(title)}</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>',
        (
            f'<text transform="translate(18 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_title)}</text>"
        ),
    ]
    for tick in x.ticks:
        at = f"{x.place(tick):.1f}"
        parts.append(f'<line class="grid" x1="{at}" y1="{_TOP}" x2="{at}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    for tick in y.ticks:
        at = f"{y.place(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at}" dy="4" text-anchor="end">{_number(tick)}</text>')
    for number, line in enumerate(lines):
        style = f'stroke="{_COLORS[line.color]}"' + (' stroke-dasharray="6 4"' if line.dashed else "")
        path = " ".join(f"{x.place(one):.1f},{y.place(other):.1f}" for one, other in line.points)
        height = _TOP + 14 + 22 * number
        parts.append(f'<polyline class="line" {style} points="{path}"/>')
        parts.extend(
            f'<circle cx="{x.place(one):.1f}" cy="{y.place(other):.1f}" r="3" fill="{_COLORS[line.color]}"/>'
            for one, other in line.points
        )
        parts.append(f'<line class="line" {style} x1="{right + 14}" y1="{height}" x2="{right + 44}" y2="{height}"/>')
        parts.append(f'<text x="{right + 50}" y="{height}" dy="4">{escape(line.name)}</text>')
    return "\n".join((*parts, "</svg>\n"))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
