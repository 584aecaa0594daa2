"""P1 durable: OK means committed. Killing any process, at any instruction, loses no acknowledged call."""

import asyncio
import random
from collections.abc import Awaitable
from pathlib import Path

import asyncpg
import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering import embedded_postgres
from tests.conftest import ServiceProcesses
from tests.support.audit import assert_books_are_right
from tests.support.postgres import is_down, kill_server
from tests.support.processes import ServiceProcess
from tests.support.service import Stubs
from tests.support.waiting import until

IN_FLIGHT = 32
RETRIABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # what gRPC makes of a request that a stopping server has received but not looked at
}


class Load:
    """Records calls one by one and in batches, and remembers which of them were sent and which were acknowledged."""

    def __init__(self, account_id: str) -> None:
        self._account_id = account_id
        self.sent: dict[str, pb.CallRecord] = {}
        self.acknowledged: set[str] = set()

    async def run(self, stubs: Stubs, until: asyncio.Event | None = None) -> None:
        """Record until the service is gone; or, whatever becomes of single calls, until that is set."""
        workers = [self._one_by_one(stubs, until) for _ in range(IN_FLIGHT)]
        await asyncio.gather(*workers, *(self._batches(stubs, until) for _ in range(2)))

    async def deliver_again(self, stubs: Stubs) -> None:
        """Send everything that was ever sent, as a gateway does that got no answer."""
        calls = list(self.sent.values())
        for start in range(0, len(calls), 5_000):
            response = await stubs.record_batch(calls[start : start + 5_000])
            assert not response.rejections

    async def until_acknowledged(self, calls: int) -> None:
        while len(self.acknowledged) < calls:
            await asyncio.sleep(0.01)

    def _new_call(self, stubs: Stubs) -> pb.CallRecord:
        call = stubs.call(self._account_id)
        self.sent[call.call_id] = call
        return call

    async def _one_by_one(self, stubs: Stubs, until: asyncio.Event | None) -> None:
        while until is None or not until.is_set():
            call = self._new_call(stubs)
            if await acknowledged(stubs.record(call, timeout=5)):
                self.acknowledged.add(call.call_id)
            elif until is None:
                return

    async def _batches(self, stubs: Stubs, until: asyncio.Event | None) -> None:
        while until is None or not until.is_set():
            calls = [self._new_call(stubs) for _ in range(200)]
            if await acknowledged(stubs.record_batch(calls, timeout=5)):
                self.acknowledged.update(call.call_id for call in calls)
            elif until is None:
                return


async def acknowledged(sending: Awaitable[object]) -> bool:
    try:
        await sending
    except grpc.aio.AioRpcError as error:
        assert error.code() in RETRIABLE, error
        return False
    return True


async def recorded_ids(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [str(row["call_id"]) for row in await connection.fetch("SELECT call_id FROM calls")]
    finally:
        await connection.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_killing_the_service_under_load_loses_no_acknowledged_call(
    processes: ServiceProcesses, workers: int
) -> None:
    service = await processes.start("--workers", str(workers))
    await service.activate("acme")
    load = Load("acme")
    for _ in range(3):
        loading = asyncio.create_task(load.run(service))
        before = len(load.acknowledged)
        await load.until_acknowledged(before + random.randint(500, 2_500))
        await service.kill()
        await loading
        assert len(load.acknowledged) > before
        service = await processes.start("--workers", str(workers))

    recorded = await recorded_ids(processes.database_url)
    assert load.acknowledged <= set(recorded) <= set(load.sent)
    assert len(recorded) == len(set(recorded))

    await load.deliver_again(service)
    recorded = await recorded_ids(processes.database_url)
    assert sorted(recorded) == sorted(load.sent)
    month = (await service.record(next(iter(load.sent.values())))).billing_month
    assert (await service.usage("acme", month)).total_calls == len(load.sent)
    await assert_books_are_right(processes.database_url)


async def test_killing_a_worker_loses_no_acknowledged_call_and_another_takes_its_place(
    processes: ServiceProcesses,
) -> None:
    service = await processes.start("--workers", "2")
    await service.activate("acme")
    load = Load("acme")
    loading = asyncio.create_task(load.run(service))
    await load.until_acknowledged(500)
    killed = set(await service.worker_pids())
    for pid in killed:
        service.kill_pid(pid)
    await loading
    while len(set(await service.worker_pids()) - killed) < 2:
        await asyncio.sleep(0.02)
    await service.until_ready()
    await load.deliver_again(service)
    assert sorted(await recorded_ids(processes.database_url)) == sorted(load.sent)
    await assert_books_are_right(processes.database_url)


async def test_killing_postgresql_under_load_loses_no_acknowledged_call_and_the_service_recovers(
    own_data_dir: Path,
) -> None:
    postgres = embedded_postgres.start(own_data_dir)
    async with ServiceProcess(postgres.url) as service:
        await service.activate("acme")
        load = Load("acme")
        loading = asyncio.create_task(load.run(service))
        await load.until_acknowledged(1_500)
        kill_server(own_data_dir)
        await loading
        postgres.stop()
        with embedded_postgres.start(own_data_dir) as restarted:
            await service.until_ready()
            await load.deliver_again(service)
            assert sorted(await recorded_ids(restarted.url)) == sorted(load.sent)
            await assert_books_are_right(restarted.url)
            assert await service.terminate() == 0


async def test_the_embedded_postgresql_of_a_service_is_started_again_when_it_is_killed(own_data_dir: Path) -> None:
    async with ServiceProcess(None, "--data-dir", str(own_data_dir)) as service:
        await service.activate("acme")
        load = Load("acme")
        for kills in (1, 2):
            enough = asyncio.Event()
            loading = asyncio.create_task(load.run(service, enough))
            await load.until_acknowledged(len(load.acknowledged) + 300)
            kill_server(own_data_dir)
            # Calls wait for it, and it may be there again before the first of them fails.
            await until(lambda: "".join(service.output).count("starting it again") == kills)  # noqa: B023 - awaited here
            enough.set()
            await loading
            await service.until_ready()
        await load.deliver_again(service)
        with embedded_postgres.start(own_data_dir) as postgres:
            assert not postgres.started_by_us
            assert sorted(await recorded_ids(postgres.url)) == sorted(load.sent)
            await assert_books_are_right(postgres.url)
        assert await service.terminate() == 0
    assert is_down(own_data_dir)


async def test_stopping_the_service_commits_what_is_under_way(processes: ServiceProcesses) -> None:
    service = await processes.start()
    await service.activate("acme")
    load = Load("acme")
    loading = asyncio.create_task(load.run(service))
    await load.until_acknowledged(1_000)
    assert await service.terminate() == 0
    await loading
    assert load.acknowledged <= set(await recorded_ids(processes.database_url))
    await assert_books_are_right(processes.database_url)
