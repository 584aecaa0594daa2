"""Which calls of a sender have arrived: so that losses on the way show, and silence is told from no traffic."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from uuid import UUID

from metering.clock import Clock
from metering.metrics import Metrics
from metering.model import SenderState

NUMBERS_MAX = 2**62
SENDERS_MAX = 10_000
"""Senders with unwritten news; more than that are not noted, which costs nothing but knowledge of their losses."""
RANGES_MAX = 100_000
"""Ranges of numbers, of all senders, that wait to be written; the same holds of more."""


class SenderNews(NamedTuple):
    """What one request says of its sender, once its calls are committed."""

    sender_id: UUID
    first_number: int
    calls: int
    numbers: int
    closing: bool


class SenderBook(Protocol):
    """Where it is kept what has arrived, for all replicas: a sender's calls come in through several of them."""

    async def note(self, senders: Sequence[SenderState]) -> None:
        """Add to what is known of senders; raises DatabaseUnavailableError."""


@dataclass
class _Unwritten:
    """What has arrived from a sender since it was last written down."""

    ranges: list[list[int]] = field(default_factory=list)
    """Half-open; those that come in order are one."""
    numbers: int = 0
    closing: bool = False

    def add(self, news: SenderNews) -> int:
        """Add to it; returns how many more ranges it has."""
        end = news.first_number + news.calls
        self.numbers = max(self.numbers, news.numbers, end - 1)
        self.closing |= news.closing
        if not news.calls:
            return 0
        if self.ranges and self.ranges[-1][1] == news.first_number:
            self.ranges[-1][1] = end
            return 0
        self.ranges.append([news.first_number, end])
        return 1


class Senders:
    """Gathers in memory what has arrived, and writes it down once in a while: not in the way of recording."""

    def __init__(self, book: SenderBook, clock: Clock, metrics: Metrics) -> None:
        self._book = book
        self._clock = clock
        self._metrics = metrics
        self._unwritten: dict[UUID, _Unwritten] = {}
        self._ranges = 0

    def note(self, news: SenderNews) -> None:
        """Note a request that was answered."""
        unwritten = self._unwritten.get(news.sender_id)
        if self._ranges >= RANGES_MAX or (unwritten is None and len(self._unwritten) >= SENDERS_MAX):
            self._metrics.sender_news_dropped.inc()
            return
        if unwritten is None:
            unwritten = self._unwritten[news.sender_id] = _Unwritten()
        self._ranges += unwritten.add(news)

    async def write(self) -> None:
        """Write down what is new; raises DatabaseUnavailableError, and then it is kept for the next time."""
        if not self._unwritten:
            return
        now = self._clock.now()
        taken, self._unwritten = self._unwritten, {}
        ranges, self._ranges = self._ranges, 0
        try:
            # Sorted, so that replicas that write the same senders at once do not deadlock.
            await self._book.note(
                [
                    SenderState(
                        sender_id, tuple((low, high) for low, high in each.ranges), each.numbers, now, each.closing
                    )
                    for sender_id, each in sorted(taken.items())
                ]
            )
        except BaseException:
            for sender_id, later in self._unwritten.items():
                if earlier := taken.get(sender_id):
                    earlier.ranges += later.ranges
                    earlier.numbers = max(earlier.numbers, later.numbers)
                    earlier.closing |= later.closing
                else:
                    taken[sender_id] = later
            self._unwritten = taken
            self._ranges += ranges
            raise
