"""P8 never in the way: what a gateway records while the meter is away is on the books in the end, exactly once."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from faceid_metering import ClientConfig, MeteringClient, SyncMeteringClient
from tests.support.service import FakeClock, Service
from tests.support.waiting import until

ACCOUNT = "acme"


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
