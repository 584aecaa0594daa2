"""PostgreSQL undoes transactions that are in each other's way: they are done again, and nobody hears of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest

from metering.errors import retry_conflicts
from metering.store import bills, database
from metering.store.database import Database
from tests.support.audit import assert_books_are_right
from tests.support.locks import held
from tests.support.service import FakeClock, Service, reason_of
from tests.support.waiting import LONG_S, until

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

UNDONE = "transaction undone in favour of another one"


@pytest.fixture
async def service(database_url: str, clock: FakeClock) -> AsyncIterator[Service]:
    """Return a service whose sessions give a test the time to get in their way before they look for a deadlock."""
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '4s'")
    await connection.close()
    async with Service(database_url, clock) as service:
        yield service


@asynccontextmanager
async def adversary(url: str) -> AsyncIterator["Connection"]:
    """Return a connection in a transaction; it looks for no deadlock itself, so the other one is always the victim."""
    connection = await asyncpg.connect(url)
    await connection.execute("SET deadlock_timeout = '1h'")
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def until_a_service_waits(db: "Connection") -> None:
    """Return once a session of the service waits for a transaction of somebody else."""
    waits = """
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND application_name LIKE 'metering %'
    """
    async with asyncio.timeout(LONG_S):
        while not await db.fetch(waits):
            await asyncio.sleep(0.001)


async def test_a_batch_that_is_the_victim_of_a_deadlock_is_recorded_once(
    service: Service, db: "Connection", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await service.activate("acme")
    first, second = sorted((service.call("acme") for _ in range(2)), key=lambda call: call.call_id)
    insert = """
        INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
        VALUES ('2026-11-23', 'acme', $1::text::uuid, now(), 'DetectAuth', '', '2026-11-01')
    """
    async with adversary(service.database_url) as other:
        await other.execute(insert, second.call_id)
        recording = asyncio.create_task(service.record_batch([first, second]))
        await until_a_service_waits(db)
        await other.execute(insert, first.call_id)
        await until(lambda: f"{UNDONE}, trying again: deadlock detected" in caplog.text)
    assert (await recording).accepted == 2
    assert (await service.usage("acme", "2026-11")).total_calls == 2
    await assert_books_are_right(service.database_url)


async def test_a_close_that_is_the_victim_of_a_deadlock_issues_each_bill_once(
    service: Service, db: "Connection", clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for account_id in ("a", "b"):
        await service.activate(account_id)
        await service.record(service.call(account_id, at=clock.now().replace(month=10)))
    lock = "SELECT FROM accounts WHERE account_id = $1 FOR UPDATE"
    async with adversary(service.database_url) as other:
        await other.execute(lock, "b")
        closing = asyncio.create_task(service.close_month("2026-10"))
        await until_a_service_waits(db)
        await other.execute(lock, "a")
        await until(lambda: f"{UNDONE}, trying again: deadlock detected" in caplog.text)
    assert (await closing).bills_issued == 2
    await assert_books_are_right(service.database_url)


async def test_a_transaction_that_could_not_be_serialized_is_done_again(
    service: Service, db: "Connection", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await service.activate("acme")
    books = await Database.connect(service.database_url, name="test", connections=2)
    both_have_read = asyncio.Barrier(2)
    meeting = True

    @retry_conflicts
    async def count_up() -> None:
        nonlocal meeting
        async with books.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            version = await connection.fetchval("SELECT status_version FROM accounts")
            if meeting:
                await both_have_read.wait()
                meeting = False
            await connection.execute("UPDATE accounts SET status_version = $1", version + 1)

    before = await db.fetchval("SELECT status_version FROM accounts")
    await asyncio.gather(count_up(), count_up())
    assert await db.fetchval("SELECT status_version FROM accounts") == before + 2
    assert f"{UNDONE}, trying again: could not serialize access" in caplog.text
    await books.close()


async def test_who_waits_too_long_for_a_lock_is_told_so_and_recording_catches_up(
    database_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.2)
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await service.status("acme")
        async with held(database_url, "LOCK TABLE calls, bills IN ACCESS EXCLUSIVE MODE"):
            recording = asyncio.create_task(service.record(service.call("acme"), timeout=20))
            with pytest.raises(grpc.aio.AioRpcError, match="Another session holds a lock for too long") as error:
                await service.usage("acme", "2026-11")
            assert reason_of(error.value) == "DATABASE_UNAVAILABLE"
            async with asyncio.timeout(LONG_S):
                while "calls wait for the database" not in caplog.text:
                    await asyncio.sleep(0.01)
        assert not (await recording).duplicate
        assert (await service.usage("acme", "2026-11")).total_calls == 1


async def test_a_close_does_not_hold_up_recording_behind_a_batch_that_does_not_end(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock: FakeClock
) -> None:
    monkeypatch.setattr(bills, "SEAL_PAUSE_S", 0.05)
    await service.activate("acme")
    october = clock.now().replace(month=10)
    recorded = 0
    # As a service holds it that has stopped in the middle of a batch.
    async with held(service.database_url, "SELECT open_month('2026-10-01')"):
        closing = asyncio.create_task(service.close_month("2026-10"))
        async with asyncio.timeout(LONG_S):
            while caplog.text.count("closing 2026-10 waits") < 3:
                await service.record(service.call("acme", at=october), timeout=5)
                recorded += 1
        assert not closing.done()
    assert (await closing).bills_issued == 1
    assert (await service.usage("acme", "2026-10")).total_calls == recorded
    await assert_books_are_right(service.database_url)
