"""P2 once: a call is (account_id, call_id) on the day it occurred, and counts once however it is delivered."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from faceid.metering.v1 import resources_pb2 as pb
from tests.support.service import FakeClock, Service

MONTH = "2026-11"


async def test_a_call_delivered_twice_is_counted_once(service: Service) -> None:
    await service.activate("acme")
    call = service.call("acme")
    first = await service.record(call)
    second = await service.record(call)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.billing_month == second.billing_month == MONTH
    assert (await service.usage("acme", MONTH)).total_calls == 1


async def test_the_same_call_id_written_otherwise_is_the_same_call(service: Service) -> None:
    await service.activate("acme")
    call_id = str(uuid4())
    spellings = [call_id, call_id.upper(), call_id.replace("-", "")]
    responses = [await service.record(service.call("acme", call_id=spelling)) for spelling in spellings]
    assert [response.duplicate for response in responses] == [False, True, True]


async def test_two_accounts_may_use_the_same_call_id(service: Service) -> None:
    call_id = str(uuid4())
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        assert not (await service.record(service.call(account_id, call_id=call_id))).duplicate
    assert (await service.usage("acme", MONTH)).total_calls == 1
    assert (await service.usage("zenith", MONTH)).total_calls == 1


async def test_the_same_call_id_on_another_day_is_another_call(service: Service, clock: FakeClock) -> None:
    await service.activate("acme")
    call_id = str(uuid4())
    for at in (clock.now(), clock.now() - timedelta(days=1)):
        assert not (await service.record(service.call("acme", call_id=call_id, at=at))).duplicate


async def test_duplicates_within_one_batch_count_once(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(300)]
    shuffled = calls * 3
    random.Random(1).shuffle(shuffled)
    response = await service.record_batch(shuffled)
    assert (response.accepted, response.duplicates) == (300, 600)
    assert (await service.usage("acme", MONTH)).total_calls == 300


async def test_duplicates_across_batches_count_once(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(2_000)]
    accepted = duplicates = 0
    for start in range(0, 2_000, 500):
        response = await service.record_batch(calls[max(0, start - 250) : start + 500])
        accepted += response.accepted
        duplicates += response.duplicates
    assert (accepted, duplicates) == (2_000, 750)
    assert (await service.usage("acme", MONTH)).total_calls == 2_000


async def test_the_same_calls_over_8_connections_at_once_count_once(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(400)]

    async def deliver(seed: int) -> int:
        """Deliver all of them, some in batches and some one by one, in an order of one's own; return the new ones."""
        mine = calls.copy()
        random.Random(seed).shuffle(mine)
        async with service.another_connection() as connection:
            batches = [mine[start : start + 50] for start in range(0, 300, 50)]
            answers = await asyncio.gather(
                *(connection.record_batch(batch) for batch in batches),
                *(connection.record(call) for call in mine[300:]),
            )
            return sum(getattr(answer, "accepted", not getattr(answer, "duplicate", True)) for answer in answers)

    assert sum(await asyncio.gather(*(deliver(seed) for seed in range(8)))) == 400
    assert (await service.usage("acme", MONTH)).total_calls == 400
    assert len(await service.list_calls("acme", MONTH)) == 400


async def test_a_repeat_through_another_replica_after_a_restart_counts_once(
    database_url: str, clock: FakeClock
) -> None:
    async with Service(database_url, clock) as first, Service(database_url, clock) as second:
        await first.activate("acme")
        calls = [first.call("acme") for _ in range(200)]
        await first.record_batch(calls)
        await first.stop()
        answer = await second.record_batch(calls)
        assert (answer.accepted, answer.duplicates) == (0, 200)
    async with Service(database_url, clock) as third:
        assert (await third.record(calls[0])).duplicate
        assert (await third.usage("acme", MONTH)).total_calls == 200


async def test_a_uuid7_call_id_gives_the_time_of_a_call_without_one(service: Service, clock: FakeClock) -> None:
    await service.activate("acme")
    made_at = datetime(2026, 11, 22, 15, 59, 59, 999000, tzinfo=UTC)  # the last millisecond of the 22nd in Shanghai
    prefix = f"{int(made_at.timestamp() * 1000):012x}"
    call_id = f"{prefix[:8]}-{prefix[8:]}-7abc-8def-0123456789ab"
    call = pb.CallRecord(account_id="acme", api="DetectAuth", call_id=call_id)
    first = await service.record(call)
    clock.advance(days=1)
    second = await service.record(call)
    assert (first.duplicate, second.duplicate) == (False, True)
    (recorded,) = await service.list_calls("acme", MONTH)
    assert recorded.occurred_on == "2026-11-22"
    assert recorded.call.occurred_at.ToDatetime(UTC) == made_at


async def test_a_duplicate_of_a_call_counts_once_even_if_what_was_called_differs(service: Service) -> None:
    await service.activate("acme")
    call = service.call("acme", api="DetectAuth")
    await service.record(call)
    call.api = "CompareFace"
    assert (await service.record(call)).duplicate
    usage = await service.usage("acme", MONTH)
    assert [(api.api, api.calls) for api in usage.apis] == [("DetectAuth", 1)]
