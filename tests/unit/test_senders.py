from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from metering.errors import DatabaseUnavailableError
from metering.metrics import Metrics
from metering.model import SenderState
from metering.recording.senders import RANGES_MAX, SENDERS_MAX, SenderNews, Senders
from tests.support.service import FakeClock

SENDER = uuid4()


class Book:
    """Notes what it is told, while the database is there."""

    def __init__(self) -> None:
        self.away = False
        self.noted: list[SenderState] = []

    async def note(self, senders: Sequence[SenderState]) -> None:
        if self.away:
            raise DatabaseUnavailableError("away")
        self.noted += senders


class Desk:
    def __init__(self) -> None:
        self.book = Book()
        self.metrics = Metrics(CollectorRegistry())
        self.senders = Senders(self.book, FakeClock(datetime(2026, 11, 23, tzinfo=UTC)), self.metrics)

    def note(self, first_number: int, calls: int = 1, sender_id: UUID = SENDER) -> None:
        self.senders.note(SenderNews(sender_id, first_number, calls, 0, closing=False))

    @property
    def dropped(self) -> float:
        return self.metrics.sender_news_dropped._value.get()


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_batches_in_order_are_one_range(desk: Desk) -> None:
    desk.note(1, 10)
    desk.note(11, 5)
    desk.note(20, 2)
    await desk.senders.write()
    assert [(state.arrived, state.numbers) for state in desk.book.noted] == [(((1, 16), (20, 22)), 21)]


async def test_what_could_not_be_written_is_written_later(desk: Desk) -> None:
    desk.note(1)
    desk.book.away = True
    with pytest.raises(DatabaseUnavailableError):
        await desk.senders.write()
    desk.note(3)
    desk.book.away = False
    await desk.senders.write()
    assert [state.arrived for state in desk.book.noted] == [((1, 2), (3, 4))]


async def test_ranges_that_wait_to_be_written_are_bounded_and_what_is_not_noted_is_counted(desk: Desk) -> None:
    for number in range(RANGES_MAX + 7):
        desk.note(2 * number + 1)
    assert desk.dropped == 7
    desk.book.away = True
    with pytest.raises(DatabaseUnavailableError):
        await desk.senders.write()
    desk.note(1, sender_id=uuid4())
    assert desk.dropped == 8, "what was not written waits still"
    desk.book.away = False
    await desk.senders.write()
    desk.note(1, sender_id=uuid4())
    assert desk.dropped == 8
    assert sum(len(state.arrived) for state in desk.book.noted) == RANGES_MAX


async def test_senders_that_wait_to_be_written_are_bounded(desk: Desk) -> None:
    for _ in range(SENDERS_MAX):
        desk.note(1, 0, sender_id=uuid4())
    desk.note(1, 0)
    assert desk.dropped == 1
