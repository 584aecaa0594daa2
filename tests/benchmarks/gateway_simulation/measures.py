"""What the meter costs a request, from what the gateways noted."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
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
    """Of the requests of some time. Processor time is that of the event loop's thread: what other processes took away
    from it is not the meter's doing."""

    in_path: Spread
    """In is_active() and record()."""
    extra: Spread
    """Because of the meter: processor time in these, and of the client's work in the background that the request had to
    wait for."""
    queued: Spread
    """The same, and the processor time in them of the requests before it: many, after the machine took the processor
    away for a while."""
    latency: Spread
    """From when it was sent until it was through."""
    latency_without: Spread
    """The same of the gateway without a meter."""


def costs(metered: GatewayLog, bare: GatewayLog, since: float, until: float) -> Costs:
    """Return what requests that were sent in between cost; times are of the monotonic clock."""
    work = _Spent(zip(metered.work_ended_at, metered.work_processor_s, strict=True))
    serving = _Spent(zip(metered.ended_at, metered.processor_s, strict=True))
    own = [index for index, sent_at in enumerate(metered.sent_at) if since <= sent_at < until]
    others = [index for index, sent_at in enumerate(bare.sent_at) if since <= sent_at < until]
    background = [work.by(metered.began_at[index]) - work.by(metered.sent_at[index]) for index in own]
    queue = [serving.by(metered.ended_at[index]) - serving.by(metered.sent_at[index]) for index in own]
    return Costs(
        Spread.of(metered.ended_at[index] - metered.began_at[index] for index in own),
        Spread.of(waited + metered.processor_s[index] for waited, index in zip(background, own, strict=True)),
        Spread.of(waited + served for waited, served in zip(background, queue, strict=True)),
        Spread.of(metered.ended_at[index] - metered.sent_at[index] for index in own),
        Spread.of(bare.ended_at[index] - bare.sent_at[index] for index in others),
    )


class _Spent:
    """How much processor time some pieces of work took up to a moment: when they ended, and what they took."""

    def __init__(self, pieces: Iterable[tuple[float, float]]) -> None:
        self._ended_at, self._spent = array("d"), array("d", (0.0,))
        for ended_at, processor_s in pieces:
            self._ended_at.append(ended_at)
            self._spent.append(self._spent[-1] + processor_s)

    def by(self, moment: float) -> float:
        """Return it. A piece counts at its end, so one under way at the beginning of a span counts as a whole."""
        return self._spent[bisect_right(self._ended_at, moment)]
