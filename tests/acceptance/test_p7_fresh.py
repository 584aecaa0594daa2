"""P7 fresh: a suspension or reactivation reaches every replica and every watcher within a second."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import asyncpg
import grpc
import pytest

from faceid.metering.v1 import metering_service_pb2 as metering_pb
from faceid.metering.v1 import resources_pb2 as pb
from tests.support.service import FakeClock, Service, reason_of

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)
ACTIVE, SUSPENDED = pb.SERVICE_STATE_ACTIVE, pb.SERVICE_STATE_SUSPENDED


@pytest.fixture
async def replicas(database_url: str, clock: FakeClock) -> AsyncIterator[list[Service]]:
    async with (
        Service(database_url, clock) as first,
        Service(database_url, clock) as second,
        Service(database_url, clock) as third,
    ):
        yield [first, second, third]


async def bill(service: Service, *account_ids: str) -> None:
    for account_id in account_ids:
        await service.activate(account_id)
        await service.record(service.call(account_id, at=OCTOBER))
    await service.close_month("2026-10")


async def until_state(service: Service, account_id: str, state: "pb.ServiceState") -> float:
    """Return after how many seconds a replica says that an account is in a state."""
    start = time.perf_counter()
    while (await service.status(account_id)).state != state:
        await asyncio.sleep(0.002)
    return time.perf_counter() - start


class Watch:
    """A WatchServiceStatus stream."""

    def __init__(self, service: Service, account_ids: Sequence[str] = ()) -> None:
        request = metering_pb.WatchServiceStatusRequest(account_ids=account_ids)
        self._stream = service.metering.WatchServiceStatus(request)
        self.newest: dict[str, pb.ServiceStatus] = {}

    async def until(self, account_id: str, state: "pb.ServiceState") -> None:
        while account_id not in self.newest or self.newest[account_id].state != state:
            status = (await anext(aiter(self._stream))).service_status
            known = self.newest.get(status.account_id)
            if known is None or status.version >= known.version:
                self.newest[status.account_id] = status

    def close(self) -> None:
        self._stream.cancel()


async def test_suspension_and_reactivation_reach_every_replica_within_a_second(replicas: list[Service]) -> None:
    await bill(replicas[0], "acme")
    for replica in replicas:
        assert (await replica.status("acme")).state == ACTIVE
    await replicas[1].deduct("acme", "2026-10")
    assert max(await asyncio.gather(*(until_state(replica, "acme", SUSPENDED) for replica in replicas))) < 1
    await replicas[2].pay("acme", "5")
    assert max(await asyncio.gather(*(until_state(replica, "acme", ACTIVE) for replica in replicas))) < 1


async def test_watchers_get_the_present_state_and_every_change(replicas: list[Service]) -> None:
    await bill(replicas[0], "acme", "zenith")
    watches = [Watch(replicas[0]), Watch(replicas[1], ["acme"]), Watch(replicas[2], ["acme", "zenith"])]
    async with asyncio.timeout(5):
        for watch in watches:
            await watch.until("acme", ACTIVE)
    await replicas[1].deduct("acme", "2026-10")
    async with asyncio.timeout(1):
        await asyncio.gather(*(watch.until("acme", SUSPENDED) for watch in watches))
    await replicas[1].pay("acme", "5")
    async with asyncio.timeout(1):
        await asyncio.gather(*(watch.until("acme", ACTIVE) for watch in watches))
    assert watches[1].newest.keys() == {"acme"}
    for watch in watches:
        watch.close()


async def test_a_watcher_hears_of_an_account_that_is_activated_later(replicas: list[Service]) -> None:
    everything, named = Watch(replicas[0]), Watch(replicas[1], ["new"])
    await replicas[2].activate("new")
    async with asyncio.timeout(5):
        await everything.until("new", ACTIVE)
        await named.until("new", ACTIVE)
    everything.close()
    named.close()


async def test_a_suspended_accounts_call_is_recorded_and_answered_with_its_status(service: Service) -> None:
    await bill(service, "acme")
    await service.deduct("acme", "2026-10")
    await until_state(service, "acme", SUSPENDED)
    answer = await service.record(service.call("acme"))
    assert (answer.duplicate, answer.service_status.state) == (False, SUSPENDED)
    batch = await service.record_batch([service.call("acme"), service.call("acme")])
    assert batch.accepted == 2
    assert [(status.account_id, status.state) for status in batch.not_active] == [("acme", SUSPENDED)]
    assert (await service.usage("acme", "2026-11")).total_calls == 3


async def test_check_service_status_does_not_ask_the_database(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await service.activate("acme")
    await service.status("acme")
    async with db.transaction():
        await db.execute("LOCK TABLE accounts, bills IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(2):
            for _ in range(100):
                assert (await service.status("acme")).state == ACTIVE


async def test_a_replica_that_has_lost_its_feed_says_how_old_its_answer_is_and_catches_up(
    replicas: list[Service], server_url: str, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await bill(replicas[0], "acme")
    assert (await replicas[1].status("acme")).age.ToMilliseconds() < 2_000
    database = await db.fetchval("SELECT current_database()")
    outside = await asyncpg.connect(server_url)
    try:
        # New connections are refused and the feeds are cut: a status in memory grows old, and says so.
        await outside.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await outside.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name = 'metering status feed'",
            database,
        )
        await db.execute("UPDATE accounts SET state = 'SUSPENDED', status_version = status_version + 1")
        async with asyncio.timeout(10):
            while (await replicas[1].status("acme")).age.ToMilliseconds() < 2_000:
                await asyncio.sleep(0.05)
        assert (await replicas[1].status("acme")).state == ACTIVE
    finally:
        await outside.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await outside.close()
    for replica in replicas:
        await until_state(replica, "acme", SUSPENDED)
        async with asyncio.timeout(5):
            while (await replica.status("acme")).age.ToMilliseconds() > 1_000:
                await asyncio.sleep(0.02)


async def test_the_status_of_an_unknown_account_is_not_found(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.status("nobody")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error.value) == "ACCOUNT_NOT_FOUND"


async def test_an_account_is_known_to_every_replica_as_soon_as_it_is_activated(replicas: list[Service]) -> None:
    for replica in replicas:
        with pytest.raises(grpc.aio.AioRpcError):
            await replica.record(replica.call("acme"))
    await replicas[0].activate("acme")
    for replica in replicas:
        assert not (await replica.record(replica.call("acme"))).duplicate


async def test_stopping_ends_watches_at_once(service: Service) -> None:
    await service.activate("acme")
    watch = Watch(service)
    async with asyncio.timeout(5):
        await watch.until("acme", ACTIVE)
    stopping = asyncio.create_task(service.stop())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with asyncio.timeout(1):
            await watch.until("acme", SUSPENDED)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(error.value) == "SHUTTING_DOWN"
    await stopping
