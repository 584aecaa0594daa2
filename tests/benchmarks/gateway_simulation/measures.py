"""What the meter costs a request, from what the gateways noted."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from tests.benchmarks.gateway_simulation.gateway_log import GatewayLog


@dataclass(frozen=True)
class Spread:
    """How long requests took, in ms."""

    requests: int
    p50: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Sort them out."""
        ascending = sorted(seconds)
        ranks = (ascending[min(int(len(ascending) * share), len(ascending) - 1)] for share in (0.5, 0.99, 0.999, 1.0))
        return cls(len(ascending), *(1_000 * rank for rank in ranks))


@dataclass(frozen=True)
class Costs:
    """Of the requests of some time."""

    in_path: Spread
    """In is_active() and record()."""
    extra: Spread
    """From when it was sent until it was through, what the event loop's thread spent on the meter: on this request, on
    those before it, and on the client's work in the background. Time that the system took away meanwhile counts."""
    extra_processor: Spread
    """The same without the time that the system, or another thread with the interpreter's lock, took away."""
    latency: Spread
    """From when it was sent until it was through."""
    latency_without: Spread
    """The same of the gateway without a meter."""


def costs(metered: GatewayLog, bare: GatewayLog, since: float, until: float) -> Costs:
    """Return what requests that were sent in between cost; times are of the monotonic clock."""
    spent, spent_processor = _time_on_the_meter(metered)
    own = [index for index, sent_at in enumerate(metered.sent_at) if since <= sent_at < until]
    others = [index for index, sent_at in enumerate(bare.sent_at) if since <= sent_at < until]
    return Costs(
        Spread.of(metered.ended_at[index] - metered.began_at[index] for index in own),
        Spread.of(spent(metered.ended_at[index]) - spent(metered.sent_at[index]) for index in own),
        Spread.of(spent_processor(metered.ended_at[index]) - spent_processor(metered.sent_at[index]) for index in own),
        Spread.of(metered.ended_at[index] - metered.sent_at[index] for index in own),
        Spread.of(bare.ended_at[index] - bare.sent_at[index] for index in others),
    )


def _time_on_the_meter(log: GatewayLog) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Return how much time, and processor time, the thread had spent on the meter up to a moment."""
    pieces = sorted(
        [
            *zip(log.began_at, log.ended_at, log.processor_s, strict=True),
            *zip(log.work_began_at, log.work_ended_at, log.work_processor_s, strict=True),
        ]
    )
    begins = array("d", (began_at for began_at, _, _ in pieces))
    before, processor_before = array("d", (0.0,)), array("d", (0.0,))
    for began_at, ended_at, processor_s in pieces:
        before.append(before[-1] + ended_at - began_at)
        processor_before.append(processor_before[-1] + processor_s)

    def spent(moment: float) -> float:
        piece = bisect_right(begins, moment) - 1
        return before[piece] + min(moment, pieces[piece][1]) - begins[piece] if piece >= 0 else 0.0

    def spent_processor(moment: float) -> float:
        """Of a piece under way, its whole time counts as being spent at its end: a bit too much, never too little."""
        piece = bisect_right(begins, moment) - 1
        return processor_before[piece + (moment >= pieces[piece][1])] if piece >= 0 else 0.0

    return spent, spent_processor
