"""The monthly run in `serve`: closes and deducts on day 1 to 3, by one of the replicas."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering import app
from tests.support.audit import assert_books_are_right
from tests.support.service import FakeClock, Service, amount

if TYPE_CHECKING:
    import asyncpg


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every 20 ms whether it is time, not every minute."""
    monkeypatch.setattr(app, "MONTHLY_RUN_INTERVAL_S", 0.02)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def bill_state(service: Service, account_id: str, month: str) -> "pb.BillState | None":
    try:
        return (await service.bill(account_id, month)).state
    except grpc.aio.AioRpcError:
        return None


async def test_day_1_closes_and_deducts_and_day_3_suspends_who_has_not_paid(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock) as service, Service(database_url, clock):
        for account_id, money in (("rich", "100"), ("poor", "1")):
            await service.activate(account_id)
            await service.pay(account_id, money)
            await service.record_batch([service.call(account_id) for _ in range(100)])

        clock.time = datetime(2026, 11, 30, 15, 59, 59, tzinfo=UTC)  # the last second of November in Shanghai
        await service.record(service.call("rich"))
        assert await db.fetchval("SELECT count(*) FROM months") == 0
        clock.time = datetime(2026, 11, 30, 16, tzinfo=UTC)

        async def rich_has_paid() -> bool:
            return await bill_state(service, "rich", "2026-11") == pb.BILL_STATE_PAID

        async def poor_is_suspended() -> bool:
            return (await service.account("poor")).service_status.state == pb.SERVICE_STATE_SUSPENDED

        await eventually(rich_has_paid)
        poor = await service.bill("poor", "2026-11")
        assert (poor.state, amount(poor.deducted)) == (pb.BILL_STATE_ISSUED, 1)
        assert not await poor_is_suspended()
        clock.time = datetime(2026, 12, 2, 16, tzinfo=UTC)  # 3 December begins in Shanghai
        await eventually(poor_is_suspended)
    await assert_books_are_right(database_url)


async def test_a_service_that_was_down_on_day_1_to_3_makes_up_for_it(database_url: str, clock: FakeClock) -> None:
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await service.record(service.call("acme"))
    clock.time = datetime(2026, 12, 20, tzinfo=UTC)
    async with Service(database_url, clock) as service:

        async def acme_is_overdue() -> bool:
            return await bill_state(service, "acme", "2026-11") == pb.BILL_STATE_OVERDUE

        await eventually(acme_is_overdue)


async def test_a_new_installation_does_not_close_last_month_under_the_feet_of_who_brings_in_old_calls(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        call = service.call("acme", at=datetime(2026, 10, 15, tzinfo=UTC))
        assert (await service.record(call)).billing_month == "2026-10"
        clock.advance(days=1)
    async with Service(database_url, clock) as service:
        await asyncio.sleep(0.2)  # ten times as long as it takes to look
        assert await db.fetchval("SELECT count(*) FROM months") == 0


async def test_each_day_is_run_once_by_one_replica(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock), Service(database_url, clock), Service(database_url, clock):
        for day in (1, 2, 3, 4):
            clock.time = datetime(2026, 12, day, 4, tzinfo=UTC)

            async def ran(day: int = day) -> bool:
                return bool(await db.fetchval("SELECT max(run_on) = $1 FROM monthly_runs", clock.time.date()))

            if day < 4:
                await eventually(ran)
        await asyncio.sleep(0.2)  # ten times as long as it takes to look
    runs = [row["run_on"].isoformat() for row in await db.fetch("SELECT run_on FROM monthly_runs ORDER BY run_on")]
    assert runs == ["2026-11-23", "2026-12-01", "2026-12-02", "2026-12-03"]
