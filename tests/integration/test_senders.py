"""What the service knows of clients that number their calls."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from faceid_metering import ClientConfig, MeteringClient
from metering.model import SenderState
from metering.recording.senders import NUMBERS_MAX
from metering.store.database import Database
from metering.store.senders import SenderGauges, SenderStore
from tests.support.service import FakeClock, Service

if TYPE_CHECKING:
    import asyncpg

NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=1)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SenderStore]:
    database = await Database.connect(database_url, name="test senders", connections=1)
    yield SenderStore(database)
    await database.close()


async def until_known(store: SenderStore, expected: list[SenderGauges]) -> None:
    """Wait until the service, which writes once a second, has written it."""
    async with asyncio.timeout(10):
        while await store.gauges(LONG_AGO) != expected:
            await asyncio.sleep(0.05)


def sender(sender_id: UUID, *arrived: tuple[int, int], numbers: int) -> SenderState:
    return SenderState(sender_id, arrived, numbers, NOW, closed=False)


async def test_calls_that_a_client_has_dropped_are_missing_at_the_service(
    database_url: str, store: SenderStore
) -> None:
    async with Service(database_url, FakeClock(NOW)) as service:
        await service.activate("acme")
        async with MeteringClient(service.target, config=ClientConfig(queue_calls=10)) as metering:
            for _ in range(30):
                metering.record("acme", "DetectAuth", occurred_at=NOW)
            assert metering.stats().dropped_calls == {"full": 20}
            assert await metering.flush(10)
            metering.record("acme", "DetectAuth", occurred_at=NOW)
            assert await metering.flush(10)
            await until_known(store, [SenderGauges("LIVE", 1, 20)])
        await until_known(store, [SenderGauges("CLOSED", 1, 20)])


async def test_batches_that_overtake_each_other_leave_no_gap(store: SenderStore) -> None:
    sender_id = uuid4()
    await store.note([sender(sender_id, (4, 7), (1, 2), numbers=6)])
    assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 1, 2)]
    await store.note([sender(sender_id, (2, 4), numbers=6)])
    assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 1, 0)]


async def test_gaps_that_are_too_many_are_forgotten_but_what_was_missing_in_them_counts(
    store: SenderStore, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    tattered, other = uuid4(), uuid4()
    await store.note(
        [
            sender(tattered, *((number, number + 1) for number in range(2, 40, 2)), numbers=40),
            sender(other, (3, 5), (6, 7), numbers=6),
        ]
    )
    assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 2, 24)]
    for _ in range(2):
        await store.forget_gaps(5)
        assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 2, 24)]
        kept = await db.fetchval("SELECT arrived::text FROM senders WHERE sender_id = $1", tattered)
        assert kept == "{[1,31),[32,33),[34,35),[36,37),[38,39)}"
    assert await db.fetchval("SELECT missing FROM senders WHERE sender_id = $1", other) == 0

    await store.forget(NOW + timedelta(days=1), LONG_AGO)
    assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 2, 24)], "senders with losses are kept"


async def test_numbers_at_the_end_of_their_type_do_not_end_the_service_that_counts_what_is_missing(
    store: SenderStore,
) -> None:
    ranges = (1, 2), (NUMBERS_MAX - 9, NUMBERS_MAX)
    await store.note([sender(uuid4(), *ranges, numbers=NUMBERS_MAX) for _ in range(4)])
    for _ in range(2):
        assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 4, 2**63 - 1)]
        await store.forget_gaps(1)
    await store.note([sender(uuid4(), (1, 2), numbers=NUMBERS_MAX)])
    assert await store.gauges(LONG_AGO) == [SenderGauges("LIVE", 5, 2**63 - 1)]
