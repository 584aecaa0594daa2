"""GetMonthlyUsage and ListCalls."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from faceid.metering.v1 import resources_pb2 as pb
from tests.support.service import FakeClock, Service
from tests.support.waiting import until_folded

if TYPE_CHECKING:
    import asyncpg


async def test_usage_counts_every_acknowledged_call_at_once_folded_or_not(service: Service) -> None:
    await service.activate("acme")
    acknowledged = 0

    async def record() -> None:
        nonlocal acknowledged
        for _ in range(40):
            accepted = (await service.record_batch([service.call("acme") for _ in range(50)])).accepted
            acknowledged += accepted

    recording = asyncio.gather(*(record() for _ in range(3)))
    while not recording.done():
        before = acknowledged
        assert before <= (await service.usage("acme", "2026-11")).total_calls <= acknowledged + 150
    await recording
    assert (await service.usage("acme", "2026-11")).total_calls == 6_000


async def test_counts_are_folded_and_stay_the_same(service: Service, db: "asyncpg.Connection[asyncpg.Record]") -> None:
    await service.activate("acme")
    for _ in range(10):
        await service.record_batch([service.call("acme") for _ in range(10)])
    before = await service.usage("acme", "2026-11")
    await until_folded(db, within_s=10)
    assert await service.usage("acme", "2026-11") == before
    assert await db.fetchval("SELECT sum(calls) FROM usage_daily") == 100


async def test_usage_is_broken_down_by_api_and_day(service: Service) -> None:
    await service.activate("acme")
    days = [datetime(2026, 11, 3, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)]
    calls = [service.call("acme", api=api, at=day) for api in ("LivenessCheck", "DetectAuth") for day in days]
    await service.record_batch([*calls, service.call("acme", at=days[0], result_code="E.Uncharged")])
    usage = await service.usage("acme", "2026-11")
    assert [(api.api, api.calls, api.charged_calls) for api in usage.apis] == [
        ("DetectAuth", 3, 2),
        ("LivenessCheck", 2, 2),
    ]
    assert [(day.day, day.calls) for day in usage.apis[0].days] == [("2026-11-03", 2), ("2026-11-20", 1)]
    assert (usage.total_calls, usage.charged_calls, usage.state) == (5, 4, pb.MONTH_STATE_OPEN)


async def test_usage_of_a_month_without_calls_is_nothing(service: Service) -> None:
    await service.activate("acme")
    usage = await service.usage("acme", "2020-02")
    assert (usage.total_calls, usage.charges.units, usage.charges.currency_code) == (0, 0, "CNY")


async def test_all_calls_of_a_bill_are_listed_in_order(service: Service, clock: FakeClock) -> None:
    await service.activate("acme")
    await service.activate("zenith")
    calls = [service.call("acme", at=clock.now() - timedelta(hours=number % 48)) for number in range(2_500)]
    await service.record_batch(calls)
    await service.record_batch([service.call("zenith") for _ in range(50)])
    listed = await service.list_calls("acme", "2026-11")
    order = [(recorded.occurred_on, recorded.call.call_id) for recorded in listed]
    assert order == sorted(order)
    assert sorted(call.SerializeToString() for call in calls) == sorted(
        recorded.call.SerializeToString() for recorded in listed
    )
