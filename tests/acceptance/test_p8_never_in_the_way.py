"""P8 never in the way: what a gateway records while the meter is away is on the books in the end, exactly once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import pytest

from faceid_metering import ClientConfig, MeteringClient, SyncMeteringClient
from tests.support.audit import assert_books_are_right
from tests.support.gateway import ACCOUNT, GatewayProcess
from tests.support.processes import ServiceProcess
from tests.support.proxy import TcpProxy
from tests.support.service import FakeClock, Service
from tests.support.waiting import LONG_S, until

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def count(service: Service) -> int:
    usage = await service.usage(ACCOUNT, service.clock.now().strftime("%Y-%m"))
    return usage.total_calls


async def test_calls_recorded_in_an_outage_are_delivered_by_the_next_client(database_url: str, tmp_path: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    config = ClientConfig(spool_dir=tmp_path, close_timeout_s=0.5)
    async with Service(database_url, clock) as service:
        await service.activate(ACCOUNT)
        async with MeteringClient(service.target, config=config) as metering:
            for _ in range(500):
                metering.record(ACCOUNT, "DetectAuth")
            assert await metering.flush(10)
            await until(lambda: metering.stats().delivered_calls == 500)
            await service.stop()
            for _ in range(700):
                metering.record(ACCOUNT, "DetectAuth")
            assert await metering.flush(10)
            metering.record(ACCOUNT, "DetectAuth", durability="disk")
            assert await metering.flush(10)
    async with Service(database_url, clock) as service:
        async with MeteringClient(service.target, config=config) as metering:
            await until(lambda: metering.stats().delivered_calls >= 701 and not metering.stats().spool_calls)
        assert await count(service) == 1201
    assert not list(tmp_path.iterdir())


async def test_the_synchronous_client_records_and_knows_who_may_call(database_url: str) -> None:
    async with Service(database_url, FakeClock(datetime.now(UTC))) as service:
        await service.activate(ACCOUNT)

        def gateway() -> tuple[bool, bool]:
            with SyncMeteringClient(service.target) as metering:
                assert metering.is_active("never activated")
                for _ in range(100):
                    metering.record(ACCOUNT, "DetectAuth")
                return metering.flush(10), metering.is_active(ACCOUNT)

        assert await asyncio.to_thread(gateway) == (True, True)
        assert await count(service) == 100


class Gateway:
    """A gateway in this process that goes on recording, whatever becomes of the service."""

    def __init__(self, target: str, spool_dir: Path) -> None:
        config = ClientConfig(spool_dir=spool_dir, attempt_timeout_s=0.5, back_off_max_s=0.5)
        self.metering = MeteringClient(target, config=config)
        self.call_ids: list[str] = []

    async def __aenter__(self) -> Self:
        self._recording = asyncio.create_task(self._record())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._recording.cancel()
        await self.metering.aclose()

    async def _record(self) -> None:
        while True:
            self.call_ids += [self.metering.record(ACCOUNT, "DetectAuth") for _ in range(10)]
            await asyncio.sleep(0.005)

    async def until_delivered(self, calls: int) -> None:
        """Wait until so many more calls are delivered."""
        calls += self.metering.stats().delivered_calls
        await until(lambda: self.metering.stats().delivered_calls >= calls)

    async def until_spooled(self, calls: int) -> None:
        """Wait until so many more calls are spooled."""
        calls += self.metering.stats().spooled_calls
        await until(lambda: self.metering.stats().spooled_calls >= calls)

    async def finish(self) -> None:
        """Record no more, and wait until all is delivered."""
        self._recording.cancel()
        await until(lambda: not self.metering.stats().waiting_calls and not self.metering.stats().spool_calls)
        assert not self.metering.stats().dropped_calls
        assert not self.metering.stats().rejected_calls


async def booked(db: Connection) -> list[str]:
    return [str(call_id) for (call_id,) in await db.fetch("SELECT call_id FROM calls")]


async def assert_booked_once(database_url: str, db: Connection, gateway: Gateway) -> None:
    assert sorted(await booked(db)) == sorted(gateway.call_ids)
    await assert_books_are_right(database_url)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[ServiceProcess]:
    async with ServiceProcess(database_url) as service:
        await service.activate(ACCOUNT)
        yield service


async def test_a_service_that_is_killed_again_and_again_has_every_call_once(
    database_url: str, db: Connection, service: ServiceProcess, tmp_path: Path
) -> None:
    async with Gateway(service.target, tmp_path) as gateway:
        await gateway.until_delivered(1000)
        await service.kill()
        await gateway.until_spooled(500)
        async with ServiceProcess(database_url, "--listen", service.target) as second:
            await gateway.until_delivered(1000)
            await second.kill()
        await gateway.until_spooled(500)
        async with ServiceProcess(database_url, "--listen", service.target):
            await gateway.until_delivered(1000)
            await gateway.finish()

    await assert_booked_once(database_url, db, gateway)


async def test_a_service_that_is_frozen_for_a_while_has_every_call_once(
    database_url: str, db: Connection, service: ServiceProcess, tmp_path: Path
) -> None:
    async with Gateway(service.target, tmp_path) as gateway:
        for _ in range(2):
            await gateway.until_delivered(500)
            os.killpg(service.process.pid, signal.SIGSTOP)
            try:
                await gateway.until_spooled(500)
            finally:
                os.killpg(service.process.pid, signal.SIGCONT)
        await gateway.finish()
        assert gateway.metering.stats().failed_batches["DEADLINE_EXCEEDED"]

    await assert_booked_once(database_url, db, gateway)


async def test_behind_a_wire_that_is_cut_and_swallows_every_call_is_booked_once(
    database_url: str, db: Connection, service: ServiceProcess, tmp_path: Path
) -> None:
    async with TcpProxy(service.target, "127.0.0.1:{port}") as proxy, Gateway(proxy.url, tmp_path) as gateway:
        await gateway.until_delivered(500)
        proxy.cut()
        await gateway.until_delivered(500)
        proxy.cut_replies_after(500)  # calls are booked whose answers are lost
        await gateway.until_spooled(500)
        proxy.cut_replies_after(None)
        await gateway.until_delivered(500)
        proxy.hold()
        await gateway.until_spooled(500)
        proxy.release()
        await gateway.until_delivered(500)
        await proxy.refuse()
        await gateway.until_spooled(500)
        await proxy.accept()
        await gateway.finish()
        assert gateway.metering.stats().duplicate_calls

    await assert_booked_once(database_url, db, gateway)


async def test_what_a_killed_gateway_had_flushed_to_disk_is_booked_once(
    database_url: str, db: Connection, service: ServiceProcess, tmp_path: Path
) -> None:
    async with GatewayProcess(service.target, tmp_path) as while_up:
        await until(lambda: len(while_up.safe) >= 500)
        await while_up.kill()
    async with GatewayProcess(service.target, tmp_path) as while_down:
        await until(lambda: while_down.safe)
        await service.kill()
        safe_before = len(while_down.safe)
        await until(lambda: len(while_down.safe) >= safe_before + 500)
        await while_down.kill()
    safe = while_up.safe | while_down.safe

    async with (
        ServiceProcess(database_url, "--listen", service.target),
        MeteringClient(service.target, config=ClientConfig(spool_dir=tmp_path)),
        asyncio.timeout(LONG_S),
    ):
        while not safe <= set(await booked(db)):
            await asyncio.sleep(0.05)

    on_the_books = await booked(db)
    assert safe <= set(on_the_books) <= while_up.recording | while_down.recording
    assert len(on_the_books) == len(set(on_the_books))
    await assert_books_are_right(database_url)
