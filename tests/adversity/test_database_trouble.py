"""The database misbehaves: nothing acknowledged is lost, nothing counts twice, and nobody needs to help."""

import asyncio
import contextlib
import gc
import random
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering.errors import DatabaseUnavailableError
from metering.store.database import Database
from tests.support.audit import assert_books_are_right
from tests.support.proxy import TcpProxy
from tests.support.service import FakeClock, Service, reason_of, retry_after_s
from tests.support.waiting import until

if TYPE_CHECKING:
    import asyncpg

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_WHY = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
END_OF_SESSION = b"E" + struct.pack(">i", len(_WHY) + 4) + _WHY
"""What a server says last, here without hanging up."""


async def record_until_acknowledged(service: Service, call: pb.CallRecord) -> None:
    """Do what a gateway does: send it again, the same, until it is acknowledged."""
    while True:
        try:
            await service.record(call, timeout=1)
        except grpc.aio.AioRpcError as error:
            assert error.code() in {UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}, error
            await asyncio.sleep(0.01)
        else:
            return


async def test_calls_in_any_number_are_exact_while_backends_are_terminated_at_random(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(3_000)]

    async def record(mine: list[pb.CallRecord]) -> None:
        for call in mine:
            await record_until_acknowledged(service, call)

    async def terminate_at_random() -> None:
        while True:
            await asyncio.sleep(random.uniform(0, 0.05))
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'metering%' AND random() < 0.5"
            )

    nemesis = asyncio.create_task(terminate_at_random())
    await asyncio.gather(*(record(calls[start::30]) for start in range(30)))
    nemesis.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await nemesis
    assert (await service.usage("acme", "2026-11")).total_calls == 3_000
    await assert_books_are_right(service.database_url)


@asynccontextmanager
async def behind_a_proxy(database_url: str, clock: FakeClock) -> AsyncIterator[tuple[Service, TcpProxy]]:
    """Return a service whose connections to the database go through a proxy."""
    async with TcpProxy.to_postgres(database_url) as proxy, Service(proxy.url, clock) as service:
        yield service, proxy


async def test_a_call_waits_for_the_database_up_to_its_deadline_and_is_then_unavailable(
    database_url: str, clock: FakeClock
) -> None:
    async with behind_a_proxy(database_url, clock) as (service, proxy):
        await service.activate("acme")
        await service.status("acme")
        await proxy.refuse()
        call = service.call("acme")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.record(call, timeout=1)
        assert (error.value.code(), reason_of(error.value)) == (UNAVAILABLE, "DATABASE_UNAVAILABLE")
        assert (retry_after_s(error.value) or 0) > 0

        waiting = asyncio.create_task(service.record(call, timeout=20))
        await asyncio.sleep(0.2)  # it waits; there is nothing to see of that
        await proxy.accept()
        assert not (await waiting).duplicate
        assert (await service.record(call)).duplicate
        assert (await service.usage("acme", "2026-11")).total_calls == 1


async def test_a_session_that_is_ended_just_before_a_copy_leaves_nothing_in_the_log_that_nobody_understands(
    database_url: str, db: "asyncpg.Connection[asyncpg.Record]", caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # of what other tests have left
    caplog.clear()
    async with TcpProxy.to_postgres(database_url) as proxy:
        database = await Database.connect(proxy.url, name="test", connections=1)

        async def copy() -> None:
            async with database.transaction() as connection:
                await connection.execute("SELECT")
                proxy.say(END_OF_SESSION)
                await db.execute("SELECT")  # which takes longer
                await connection.copy_records_to_table("usage_deltas", records=[])

        with pytest.raises(DatabaseUnavailableError, match="the connection broke"):
            await copy()
        proxy.cut()
        await database.ping()
        await database.close()
    gc.collect()  # or nobody hears of what was not looked at
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


async def test_a_commit_whose_reply_is_lost_counts_once(database_url: str, clock: FakeClock) -> None:
    async with behind_a_proxy(database_url, clock) as (service, proxy):
        await service.activate("acme")
        for size in (1, 5, 200):
            calls = [service.call("acme") for _ in range(size)]
            for cut_after_bytes in (1, 200, 800, 2_000, 6_000):
                proxy.cut_replies_after(cut_after_bytes)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await service.record_batch(calls, timeout=0.4)
                proxy.cut_replies_after(None)
            answer = await service.record_batch(calls)
            assert answer.accepted + answer.duplicates == size
        assert (await service.usage("acme", "2026-11")).total_calls == 206
    await assert_books_are_right(database_url)


async def test_a_database_that_falls_silent_does_not_hold_calls_beyond_their_deadline(
    database_url: str, clock: FakeClock
) -> None:
    async with behind_a_proxy(database_url, clock) as (service, proxy):
        await service.activate("acme")
        call = service.call("acme")
        await service.record(service.call("acme"))
        proxy.hold()
        start = asyncio.get_running_loop().time()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.record(call, timeout=1)
        assert error.value.code() is UNAVAILABLE
        assert asyncio.get_running_loop().time() - start < 1
        proxy.release()
        await record_until_acknowledged(service, call)
        assert (await service.usage("acme", "2026-11")).total_calls == 2


async def test_readiness_follows_the_database_and_liveness_does_not(database_url: str, clock: FakeClock) -> None:
    async with behind_a_proxy(database_url, clock) as (service, proxy):
        async with asyncio.timeout(10):
            while service.app.not_ready():
                await asyncio.sleep(0.01)
            await proxy.refuse()
            while not service.app.not_ready():
                await asyncio.sleep(0.01)
            assert "database" in service.app.not_ready()
            assert service.app.not_alive() == ""
            await proxy.accept()
            while service.app.not_ready():
                await asyncio.sleep(0.01)


async def test_a_worker_that_is_started_while_the_database_is_away_waits_for_it(
    database_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with TcpProxy.to_postgres(database_url) as proxy, AsyncExitStack() as stack:
        await proxy.refuse()
        starting = asyncio.create_task(stack.enter_async_context(Service(proxy.url, clock)))
        await until(lambda: starting.done() or "waiting for the database" in caplog.text)
        await proxy.accept()
        service = await starting
        await service.activate("acme")
        assert not (await service.record(service.call("acme"))).duplicate


async def test_a_full_queue_is_resource_exhausted_and_recovers(database_url: str, clock: FakeClock) -> None:
    async with TcpProxy.to_postgres(database_url) as proxy, Service(proxy.url, clock, queue_calls=100) as service:
        await service.activate("acme")
        await service.status("acme")
        await proxy.refuse()
        calls = [service.call("acme") for _ in range(150)]
        waiting = [asyncio.create_task(service.record(call, timeout=20)) for call in calls]
        async with asyncio.timeout(10):
            while sum(task.done() for task in waiting) < 50:
                await asyncio.sleep(0.01)
        refused = [task.exception() for task in waiting if task.done()]
        for error in refused:
            assert isinstance(error, grpc.aio.AioRpcError)
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert (retry_after_s(error) or 0) > 0
        await proxy.accept()
        assert len(await asyncio.gather(*waiting, return_exceptions=True)) == 150
        assert (await service.usage("acme", "2026-11")).total_calls == 150 - len(refused)


async def test_cancelled_requests_do_not_disturb_the_others(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(600)]
    tasks = [asyncio.create_task(service.record(call)) for call in calls]
    await asyncio.sleep(0)
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    answered = [call for call, result in zip(calls, results, strict=True) if not isinstance(result, BaseException)]
    assert len(answered) >= 400
    recorded = {recorded.call.call_id for recorded in await service.list_calls("acme", "2026-11")}
    assert {call.call_id for call in answered} <= recorded
    await service.record_batch(calls)
    assert (await service.usage("acme", "2026-11")).total_calls == 600
    await assert_books_are_right(service.database_url)


async def test_a_dropped_partition_is_made_again(service: Service, db: "asyncpg.Connection[asyncpg.Record]") -> None:
    await service.activate("acme")
    await service.record(service.call("acme"))
    for size in (1, 300):
        await db.execute("ALTER TABLE calls DETACH PARTITION calls_20261123")
        await db.execute("DROP TABLE calls_20261123")
        answer = await service.record_batch([service.call("acme") for _ in range(size)])
        assert answer.accepted == size


async def test_a_row_the_database_refuses_is_set_aside_and_its_neighbours_are_recorded(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await service.activate("acme")
    await db.execute("ALTER TABLE calls ADD CONSTRAINT no_seven CHECK (api <> 'Seven')")
    calls = [service.call("acme", api="Seven" if number in {7, 150, 290} else "DetectAuth") for number in range(300)]
    response = await service.record_batch(calls)
    assert response.accepted == 297
    assert [(rejection.index, rejection.reason) for rejection in response.rejections] == [
        (7, "UNRECORDABLE"),
        (150, "UNRECORDABLE"),
        (290, "UNRECORDABLE"),
    ]
    assert sorted(rejected.call.call_id for rejected in await service.rejected("acme")) == sorted(
        calls[number].call_id for number in (7, 150, 290)
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.record(calls[7])
    assert reason_of(error.value) == "UNRECORDABLE"
    await assert_books_are_right(service.database_url)
