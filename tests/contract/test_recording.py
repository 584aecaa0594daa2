"""Recording, the same on the fake service and the real one."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from faceid.metering.v1 import resources_pb2 as pb
from faceid_metering.testing import FakeClock
from tests.support.service import Stubs, fields_of, reason_of

NOON = datetime(2026, 11, 23, 4, tzinfo=UTC)
UUID7 = "019aaebd-2c00-7abc-8def-0123456789ab"  # holds 2025-11-23


async def test_a_call_delivered_twice_counts_once(metering: Stubs) -> None:
    await metering.activate("acme")
    call = metering.call("acme")

    first, second = await metering.record(call), await metering.record(call)
    batch = await metering.record_batch([call, metering.call("acme"), call])

    assert (first.duplicate, second.duplicate) == (False, True)
    assert (first.billing_month, second.billing_month) == ("2026-11", "2026-11")
    assert first.service_status.state == pb.SERVICE_STATE_ACTIVE
    assert (batch.accepted, batch.duplicates, len(batch.rejections)) == (1, 2, 0)
    assert (await metering.usage("acme", "2026-11")).total_calls == 2


async def test_a_call_id_is_one_call_of_an_account_and_a_day(metering: Stubs) -> None:
    await metering.activate("acme")
    await metering.activate("other")
    call_id = str(uuid4())
    calls = [
        metering.call("acme", call_id=call_id),
        metering.call("acme", call_id=call_id.upper()),
        metering.call("acme", call_id=call_id.replace("-", ""), api="CompareFace"),
        metering.call("other", call_id=call_id),
        metering.call("acme", call_id=call_id, at=NOON - timedelta(days=1)),
    ]

    batch = await metering.record_batch(calls)

    assert (batch.accepted, batch.duplicates) == (3, 2)


async def test_a_day_ends_at_midnight_of_the_billing_time_zone(metering: Stubs) -> None:
    await metering.activate("acme")
    midnight = datetime(2026, 10, 31, 16, tzinfo=UTC)  # of 1 November in Shanghai

    before = await metering.record(metering.call("acme", at=midnight - timedelta(microseconds=1)))
    after = await metering.record(metering.call("acme", at=midnight))

    assert (before.billing_month, after.billing_month) == ("2026-10", "2026-11")
    (listed,) = await metering.list_calls("acme", "2026-10")
    assert (listed.occurred_on, listed.billing_month) == ("2026-10-31", "2026-10")


async def test_without_a_time_the_one_in_the_id_is_taken(metering: Stubs, clock: FakeClock) -> None:
    clock.set(datetime(2025, 11, 23, 12, tzinfo=UTC))
    await metering.activate("acme")
    call = pb.CallRecord(account_id="acme", api="DetectAuth", call_id=UUID7)

    assert (await metering.record(call)).billing_month == "2025-11"
    (listed,) = await metering.list_calls("acme", "2025-11")
    assert listed.call.occurred_at.ToMicroseconds() == int(UUID7.replace("-", "")[:12], 16) * 1000


BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"account_id": ""}, "account_id"),
    ({"account_id": "a b"}, "account_id"),
    ({"account_id": "a" * 65}, "account_id"),
    ({"api": ""}, "api"),
    ({"api": "Dététect"}, "api"),
    ({"call_id": ""}, "call_id"),
    ({"call_id": "7"}, "call_id"),
    ({"call_id": "{0192f0c1-2345-7abc-8def-0123456789ab}"}, "call_id"),
    ({"result_code": "not so\n"}, "result_code"),
    ({"occurred_at": None}, "occurred_at"),
    ({"occurred_at": Timestamp(seconds=1, nanos=-1)}, "occurred_at"),
    ({"occurred_at": Timestamp(seconds=10**12)}, "occurred_at"),
]


@pytest.mark.parametrize(("bad", "field"), BAD_CALLS, ids=lambda value: None if isinstance(value, str) else str(value))
async def test_a_malformed_field_is_named(metering: Stubs, bad: dict[str, Any], field: str) -> None:
    await metering.activate("acme")
    good = metering.call("acme")
    values = {name: getattr(good, name) for name in ("account_id", "api", "call_id", "occurred_at", "result_code")}
    call = pb.CallRecord(**{**values, **bad})

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await metering.record(call)
    batch = await metering.record_batch([call, good])

    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(failed.value) == "INVALID_FIELD"
    assert fields_of(failed.value) == [field]
    assert (failed.value.details() or "").startswith(f"{field}: ")
    assert [(each.index, each.reason) for each in batch.rejections] == [(0, "INVALID_FIELD")]
    assert batch.accepted == 1
    assert await metering.rejected() == []


@pytest.mark.parametrize("by", [timedelta(minutes=5, microseconds=1), -timedelta(days=62, microseconds=1)])
async def test_a_call_too_far_off_is_rejected_and_kept(metering: Stubs, by: timedelta) -> None:
    await metering.activate("acme")
    call = metering.call("acme", at=NOON + by)

    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await metering.record(call)
        assert reason_of(failed.value) == "OCCURRED_AT_OUT_OF_RANGE"
        assert fields_of(failed.value) == ["occurred_at"]

    (kept,) = await metering.rejected("acme")
    assert (kept.call, kept.reason) == (call, "OCCURRED_AT_OUT_OF_RANGE")


@pytest.mark.parametrize("by", [timedelta(minutes=5), -timedelta(days=62)])
async def test_a_call_just_near_enough_is_recorded(metering: Stubs, by: timedelta) -> None:
    await metering.activate("acme")
    assert not (await metering.record(metering.call("acme", at=NOON + by))).duplicate


async def test_a_call_of_an_unknown_account_is_kept_and_can_be_sent_again(metering: Stubs) -> None:
    call = metering.call("late")

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await metering.record(call)
    batch = await metering.record_batch([call])

    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(failed.value) == "ACCOUNT_NOT_FOUND"
    assert [each.reason for each in batch.rejections] == ["ACCOUNT_NOT_FOUND"]
    (kept,) = await metering.rejected()
    assert (kept.call, kept.reason) == (call, "ACCOUNT_NOT_FOUND")
    await metering.activate("late")
    assert not (await metering.record(call)).duplicate


async def test_too_many_records_are_refused_whole(metering: Stubs) -> None:
    await metering.activate("acme")

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await metering.record_batch([metering.call("acme")] * 10_001)

    assert reason_of(failed.value) == "TOO_MANY_RECORDS"
    assert (await metering.usage("acme", "2026-11")).total_calls == 0


async def test_calls_are_listed_by_day_and_id(metering: Stubs) -> None:
    await metering.activate("acme")
    calls = [metering.call("acme", at=NOON - timedelta(days=day), result_code="E.1") for day in (0, 2, 1, 0)]
    await metering.record_batch(calls)

    listed = await metering.list_calls("acme", "2026-11")

    expected = sorted(calls, key=lambda call: (call.occurred_at.ToMicroseconds(), call.call_id))
    assert [each.call for each in listed] == expected
    assert all(each.HasField("recorded_at") for each in listed)


async def test_a_call_with_the_nil_uuid_is_listed_as_well(metering: Stubs) -> None:
    await metering.activate("acme")
    await metering.record(metering.call("acme", call_id=str(UUID(int=0))))

    assert len(await metering.list_calls("acme", "2026-11")) == 1
