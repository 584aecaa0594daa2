"""A session that read the list of partitions while one was made, and does not know of it: PostgreSQL has such ones."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from metering.model import AccountId, Call, CallKind, Month, to_micros
from metering.store.bills import BillStore
from metering.store.calls import CallStore
from metering.store.database import Database
from tests.support.service import FakeClock, Service
from tests.support.waiting import LONG_S

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Session: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

FIRST_DAY = date(2030, 1, 1)
PARTITIONS = 120
"""The more there are, the longer it takes to read their list."""
TRIES = 400
CALL = (
    "INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)"
    " VALUES ($1, 'acme', gen_random_uuid(), now(), 'DetectAuth', '', '2030-01-01')"
)
COUNT = "SELECT count(*) FROM calls WHERE occurred_on = $1"

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Blind:
    """A session that does not know of a day's partition."""

    database: Database
    """The session is the only connection of it."""
    day: date
    maker: CallStore
    """Who made the partition, in another session."""

    @property
    def call(self) -> Call:
        """A call of that day."""
        noon = datetime(self.day.year, self.day.month, self.day.day, 12, tzinfo=UTC)
        kind = CallKind(AccountId("acme"), "DetectAuth", "", self.day, Month(self.day.replace(day=1)))
        return Call(kind, uuid4().bytes, to_micros(noon))


@pytest.fixture
async def blind(database_url: str) -> AsyncIterator[Blind]:
    """Return one, of many that look while a partition is made."""
    makers = await Database.connect(database_url, name="test maker", connections=1)
    maker = CallStore(makers)
    await maker.ensure_partitions([FIRST_DAY + timedelta(days=number) for number in range(PARTITIONS)])
    await maker.tell_of_partitions()
    for number in range(TRIES):
        day = FIRST_DAY + timedelta(days=PARTITIONS + number)
        database = await Database.connect(database_url, name="test", connections=1)
        async with database.connection() as session:
            looking = _look_at_some_time(session)
            await asyncio.gather(maker.ensure_partitions([day]), looking)
            if not await _has_room(session, day) and not await _has_room(session, day):
                break
        await database.close()
    else:
        pytest.skip("this PostgreSQL seems to tell each session of each partition")
    yield Blind(database, day, maker)
    await database.close()
    await makers.close()


async def _look_at_some_time(session: Session) -> None:
    await asyncio.sleep(random.uniform(0, 0.02))
    await session.fetchval(COUNT, FIRST_DAY)


async def _has_room(session: Session, day: date) -> bool:
    room = session.transaction()
    await room.start()
    try:
        await session.execute(CALL, day)
    except asyncpg.CheckViolationError:
        return False
    finally:
        await room.rollback()
    return True


@pytest.mark.parametrize("calls", [1, 500])
async def test_calls_of_the_day_are_recorded_over_it_all_the_same(blind: Blind, calls: int) -> None:
    receipts = await CallStore(blind.database).record([blind.call for _ in range(calls)])
    assert [receipt.duplicate for receipt in receipts] == [False] * calls


async def test_calls_of_the_day_are_read_over_it_once_the_sessions_were_told(blind: Blind) -> None:
    await blind.maker.record([blind.call])
    assert await _calls_seen(blind) == 0
    await blind.maker.tell_of_partitions()
    assert await _calls_seen(blind) == 1


async def test_whoever_issues_the_bills_of_a_month_sees_all_its_calls(blind: Blind) -> None:
    await blind.maker.record([blind.call])
    assert await _calls_seen(blind) == 0
    await BillStore(blind.database).seal(blind.call.month, datetime.now(UTC))
    assert await _calls_seen(blind) == 1


async def _calls_seen(blind: Blind) -> int:
    async with blind.database.connection() as session:
        seen: int = await session.fetchval(COUNT, blind.day)
        return seen


async def test_a_service_tells_the_sessions_of_the_partitions_that_it_has_made(
    database_url: str, clock: FakeClock, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.app.PARTITIONS_TOLD_INTERVAL_S", 0.05)
    last_change = "SELECT xmin::text FROM pg_attribute WHERE attrelid = 'calls'::regclass AND attname = 'call_id'"
    before = await db.fetchval(last_change)
    async with Service(database_url, clock), asyncio.timeout(LONG_S):
        while await db.fetchval(last_change) == before:
            await asyncio.sleep(0.02)
