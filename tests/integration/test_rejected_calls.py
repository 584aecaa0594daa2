"""Rejected calls: what becomes of them when they are retried."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from metering.store import rejected_calls
from metering.store.database import Database
from metering.store.rejected_calls import RejectedCallStore
from tests.conftest import ServiceProcesses
from tests.support.audit import assert_books_are_right
from tests.support.locks import held, until_waiting
from tests.support.service import FakeClock, Service, Stubs, fields_of

if TYPE_CHECKING:
    import asyncpg

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)
REJECTED, RECORDED = pb.REJECTED_CALL_STATE_REJECTED, pb.REJECTED_CALL_STATE_RECORDED


async def retry(service: Stubs, account_id: str = "", *, however_old: bool = False) -> tuple[int, int, int]:
    """Return how many calls were recorded, had been recorded before, and are still rejected."""
    request = accounts_pb.RetryRejectedCallsRequest(account_id=account_id, however_old=however_old)
    answer = await service.accounts.RetryRejectedCalls(request, timeout=30)
    return answer.recorded, answer.duplicates, answer.still_rejected


async def reject(service: Stubs, *calls: pb.CallRecord) -> None:
    answer = await service.record_batch(calls)
    assert len(answer.rejections) == len(calls)


async def in_state(service: Stubs, state: "pb.RejectedCallState") -> list[pb.RejectedCall]:
    request = accounts_pb.ListRejectedCallsRequest(state=state)
    return list((await service.accounts.ListRejectedCalls(request)).rejected_calls)


async def test_calls_of_an_account_are_recorded_once_it_is_activated_and_their_record_says_so(
    service: Service, clock: FakeClock
) -> None:
    calls = [service.call("acme", result_code="E.Uncharged") for _ in range(3)]
    await reject(service, *calls, service.call("zenith"))
    assert await retry(service) == (0, 0, 4)
    await service.activate("acme")
    clock.advance(hours=1)
    assert await retry(service) == (3, 0, 1)

    assert (await service.usage("acme", "2026-11")).total_calls == 3
    assert sorted(call.call.call_id for call in await service.list_calls("acme", "2026-11")) == sorted(
        call.call_id for call in calls
    )
    *recorded, still = await service.rejected()
    for kept in recorded:
        assert (kept.state, kept.billing_month) == (RECORDED, "2026-11")
        assert kept.retried_at.ToDatetime(UTC) == clock.time
        assert kept.reason == "ACCOUNT_NOT_FOUND"
    assert (still.call.account_id, still.state, still.billing_month) == ("zenith", REJECTED, "")
    assert still.retried_at.ToDatetime(UTC) == clock.time
    assert await in_state(service, RECORDED) == recorded
    assert await in_state(service, REJECTED) == [still]
    assert await retry(service) == (0, 0, 1)
    await assert_books_are_right(service.database_url)


async def test_an_account_is_retried_alone(service: Service) -> None:
    await reject(service, service.call("acme"), service.call("zenith"))
    await service.activate("acme")
    await service.activate("zenith")
    assert await retry(service, "zenith") == (1, 0, 0)
    assert [kept.call.account_id for kept in await in_state(service, REJECTED)] == ["acme"]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await retry(service, "not an account")
    assert fields_of(error.value) == ["account_id"]


async def test_a_call_that_was_delivered_again_meanwhile_is_a_duplicate(service: Service) -> None:
    call = service.call("acme")
    await reject(service, call)
    await service.activate("acme")
    assert not (await service.record(call)).duplicate
    assert await retry(service) == (0, 1, 0)
    assert (await service.record(call)).duplicate
    (kept,) = await service.rejected()
    assert (kept.state, kept.billing_month) == (RECORDED, "2026-11")
    assert (await service.usage("acme", "2026-11")).total_calls == 1


async def test_a_call_of_a_closed_month_goes_on_the_next_bill(service: Service) -> None:
    await service.activate("zenith")
    await service.record(service.call("zenith", at=OCTOBER))
    await reject(service, service.call("acme", at=OCTOBER))
    await service.close_month("2026-10")
    await service.activate("acme")
    assert await retry(service) == (1, 0, 0)
    (kept,) = await service.rejected()
    assert kept.billing_month == "2026-11"
    assert (await service.usage("acme", "2026-11")).carried_calls == 1
    await assert_books_are_right(service.database_url)


async def test_calls_that_have_grown_old_are_recorded_only_if_the_operator_says_so(
    service: Service, clock: FakeClock
) -> None:
    await reject(service, service.call("acme"))
    await service.activate("acme")
    clock.advance(days=63)
    assert await retry(service) == (0, 0, 1)
    (kept,) = await service.rejected()
    assert (kept.state, kept.reason) == (REJECTED, "OCCURRED_AT_OUT_OF_RANGE")
    assert "62 days back" in kept.message
    assert await retry(service, however_old=True) == (1, 0, 0)
    assert (await service.usage("acme", "2026-11")).total_calls == 1
    await assert_books_are_right(service.database_url)


async def test_a_call_from_the_future_is_recorded_once_its_time_has_come(service: Service, clock: FakeClock) -> None:
    await service.activate("acme")
    await reject(service, service.call("acme", at=clock.time + timedelta(hours=1)))
    assert await retry(service, however_old=True) == (0, 0, 1)
    clock.advance(hours=1)
    assert await retry(service) == (1, 0, 0)


async def test_more_calls_than_are_tried_together_are_all_tried(service: Service) -> None:
    await reject(service, *[service.call("acme") for _ in range(1_000)])
    await reject(service, *[service.call("zenith") for _ in range(600)])
    await service.activate("zenith")
    assert await retry(service) == (600, 0, 1_000)
    await service.activate("acme")
    assert await retry(service) == (1_000, 0, 0)
    await assert_books_are_right(service.database_url)


async def test_recorded_calls_leave_room_for_further_rejected_ones(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await reject(service, *[service.call("acme") for _ in range(1_001)])
    assert await db.fetchval("SELECT count(*) FROM rejected_calls") == 1_000
    await service.activate("acme")
    await retry(service)
    await reject(service, *[service.call("acme", at=datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(1_001)])
    assert await db.fetchval("SELECT count(*) FROM rejected_calls") == 2_000


async def test_retries_at_once_and_deliveries_at_once_count_each_call_once(
    service: Service, database_url: str, clock: FakeClock
) -> None:
    calls = [service.call("acme") for _ in range(700)]
    await reject(service, *calls)
    await service.activate("acme")
    async with Service(database_url, clock) as other:
        delivering = asyncio.create_task(other.record_batch(calls[:300]))
        retried = await asyncio.gather(*(retry(replica) for replica in (service, other) for _ in range(3)))
        delivered = await delivering
    assert sum(recorded for recorded, _, _ in retried) + delivered.accepted == 700
    assert len(await in_state(service, RECORDED)) == 100  # of a page
    assert await in_state(service, REJECTED) == []
    assert (await service.usage("acme", "2026-11")).total_calls == 700
    await assert_books_are_right(database_url)


async def test_a_replica_killed_after_recording_and_before_noting_it_leaves_calls_that_count_once(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    first, second = [await processes.start() for _ in range(2)]
    calls = [first.call("acme") for _ in range(50)]
    await reject(first, *calls)
    await first.activate("acme")
    async with held(processes.database_url, "LOCK TABLE rejected_calls IN SHARE MODE"):
        retrying = asyncio.gather(retry(first), return_exceptions=True)
        await until_waiting(db)
        await first.kill()
        assert isinstance((await retrying)[0], grpc.aio.AioRpcError)
        assert await db.fetchval("SELECT count(*) FROM calls") == 50
    assert len(await in_state(second, REJECTED)) == 50
    assert await retry(second) == (0, 50, 0)
    assert len(await in_state(second, RECORDED)) == 50
    assert await db.fetchval("SELECT count(*) FROM calls") == 50
    await assert_books_are_right(processes.database_url)


async def test_old_ones_are_removed_recorded_ones_sooner(
    service: Service, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await reject(service, service.call("acme"), service.call("acme"), service.call("zenith"))
    await service.activate("acme")
    await retry(service)
    database = await Database.connect(service.database_url, name="test", connections=1)
    try:
        store = RejectedCallStore(database)
        now = clock.time

        async def purge(recorded_before: datetime, rejected_before: datetime) -> tuple[int, int | None]:
            removed = await store.purge(recorded_before, rejected_before)
            return removed, await db.fetchval("SELECT count(*) FROM rejected_calls")

        assert await purge(now, now) == (0, 3)
        later = now + timedelta(seconds=1)
        monkeypatch.setattr(rejected_calls, "RECORDED_MAX", 2)
        assert await purge(now, now) == (0, 3)
        assert await purge(later, now) == (2, 1)
        assert await purge(later, later) == (1, 0)
    finally:
        await database.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["reject", "activate", "retry", "retry however old", "deliver", "close", "month passes"]),
        max_size=12,
    )
)
async def test_whatever_happens_in_whatever_order_no_call_counts_twice_and_none_is_lost(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]", steps: list[str]
) -> None:
    """Each example has accounts of its own; months go by for all of them."""
    async with Service(database_url, clock) as service:
        clock.advance(seconds=1)
        account_id = f"account-{clock.time.timestamp():.0f}"
        calls: list[pb.CallRecord] = []
        active = False
        for step in [*steps, "activate", "retry however old"]:
            clock.advance(seconds=1)
            if step == "reject" and not active:
                calls.append(service.call(account_id))
                await reject(service, calls[-1])
            elif step == "activate":
                await service.activate(account_id)
                active = True
            elif step.startswith("retry"):
                await retry(service, account_id, however_old=step.endswith("old"))
            elif step == "deliver" and calls and active:
                await service.record_batch(calls)
            elif step == "close":
                last_month = clock.time.replace(day=1) - timedelta(days=2)
                await service.close_month(last_month.strftime("%Y-%m"))
            elif step == "month passes":
                clock.advance(days=31)
        found = await db.fetch("SELECT call_id::text FROM calls WHERE account_id = $1 ORDER BY call_id", account_id)
        listed = [row["call_id"] for row in found]
        assert listed == sorted(call.call_id for call in calls)
        kept = [each for each in await in_state(service, RECORDED) if each.call.account_id == account_id]
        assert {each.call.call_id for each in kept} <= set(listed)
    await assert_books_are_right(database_url)
