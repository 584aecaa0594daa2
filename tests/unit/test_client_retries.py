import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from faceid.metering.v1.account_service_pb2 import RecordPaymentResponse
from faceid.metering.v1.metering_service_pb2 import BatchRecordCallsResponse, CloseMonthResponse, RecordCallResponse
from faceid_metering import ClientConfig, MeteringClient, MeteringError, Runtime
from tests.support.scripted_server import HANG, NOW, UNAVAILABLE, Failure, FakeTime, ScriptedServer

CALL_ID = "6a1f4b52-8f0e-4c39-9d57-0a4f5a2f1c11"
NOT_FAILED_OR_RETRIED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
RECORDED = RecordCallResponse(billing_month="2026-11")


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def metering(server: ScriptedServer, time: FakeTime) -> AsyncIterator[MeteringClient]:
    async with server.client(time.runtime) as metering:
        yield metering


async def test_a_retry_keeps_call_id_and_occurred_at(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["RecordCall"] = [UNAVAILABLE, UNAVAILABLE, RECORDED]

    assert await metering.record_call("acme", "DetectAuth", CALL_ID) == RECORDED

    first, *others = server.requests["RecordCall"]
    assert others == [first, first]
    assert first.call_id == CALL_ID
    stamped = Timestamp()
    stamped.FromDatetime(NOW)
    assert first.occurred_at == stamped
    assert time.passed_s() > 0


async def test_a_retry_keeps_an_id_that_the_client_made(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["RecordCall"] = [UNAVAILABLE, RECORDED]

    await metering.record_call("acme", "DetectAuth")

    first, second = server.requests["RecordCall"]
    assert first.call_id
    assert first == second


async def test_a_batch_is_repeated_whole_even_if_it_came_from_an_iterator(
    server: ScriptedServer, metering: MeteringClient
) -> None:
    calls = [metering.call_record("acme", "DetectAuth") for _ in range(3)]
    server.script["BatchRecordCalls"] = [UNAVAILABLE, BatchRecordCallsResponse(accepted=3)]

    await metering.batch_record_calls(iter(calls))

    assert [list(request.calls) for request in server.requests["BatchRecordCalls"]] == [calls, calls]


async def test_a_payment_is_repeated_with_its_payment_id(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["RecordPayment"] = [UNAVAILABLE, RecordPaymentResponse(duplicate=True)]

    assert (await metering.record_payment("acme", Decimal("12.50"), "CNY", "wire-1")).duplicate

    assert [request.payment_id for request in server.requests["RecordPayment"]] == ["wire-1", "wire-1"]


async def test_pauses_double_up_to_a_maximum_and_are_drawn_from_zero_on(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["RecordCall"] = [*[UNAVAILABLE] * 7, RECORDED]

    await metering.record_call("acme", "DetectAuth")

    assert time.pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert time.drawn == [(0.0, pause_s) for pause_s in time.pauses_s]


async def test_no_retry_is_sent_sooner_than_the_service_asks_for(server: ScriptedServer) -> None:
    time = FakeTime()
    runtime = Runtime(monotonic_s=time.passed_s, sleep=time.runtime.sleep, uniform=lambda low, high: low)
    server.script["RecordCall"] = [
        Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", retry_after_s=1.5),
        Failure(code=grpc.StatusCode.UNAVAILABLE, reason="DATABASE_UNAVAILABLE", retry_after_s=3),
        RECORDED,
    ]

    async with server.client(runtime) as metering:
        await metering.record_call("acme", "DetectAuth")

    assert time.pauses_s == [1.5, 3.0]


async def test_retries_end_with_the_last_error_when_the_time_is_up(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["RecordCall"] = [UNAVAILABLE] * 100

    with pytest.raises(MeteringError) as caught:
        await metering.record_call("acme", "DetectAuth")

    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert 8 <= time.passed_s() < 10


async def test_a_request_may_have_a_time_limit_of_its_own(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["RecordCall"] = [UNAVAILABLE] * 100

    with pytest.raises(MeteringError):
        await metering.record_call("acme", "DetectAuth", timeout_s=1)

    assert time.pauses_s == pytest.approx([0.1, 0.2, 0.4])


async def test_nobody_waits_for_a_retry_that_would_come_too_late(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["RecordCall"] = [Failure(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=11)]

    with pytest.raises(MeteringError) as caught:
        await metering.record_call("acme", "DetectAuth")

    assert caught.value.retry_after_s == 11
    assert time.pauses_s == []


async def test_an_attempt_that_hangs_is_given_up_and_repeated(server: ScriptedServer, time: FakeTime) -> None:
    server.script["RecordCall"] = [HANG, RECORDED]

    async with server.client(time.runtime, ClientConfig(attempt_timeout_s=0.2)) as metering:
        await metering.record_call("acme", "DetectAuth")

    first, second = server.requests["RecordCall"]
    assert first == second


async def test_closing_a_month_may_take_its_time_in_one_attempt(
    server: ScriptedServer, metering: MeteringClient
) -> None:
    server.script["RecordCall"] = [RECORDED]
    server.script["CloseMonth"] = [CloseMonthResponse(), CloseMonthResponse()]

    await metering.record_call("acme", "DetectAuth")
    await metering.close_month("2026-11")
    await metering.close_month("2026-11", timeout_s=60)

    assert server.allowed_s["RecordCall"] == [pytest.approx(2, abs=1)]
    assert server.allowed_s["CloseMonth"] == [pytest.approx(600, abs=10), pytest.approx(60, abs=10)]


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code not in NOT_FAILED_OR_RETRIED], ids=lambda code: code.name
)
async def test_other_errors_are_not_retried(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime, code: grpc.StatusCode
) -> None:
    server.script["RecordCall"] = [Failure(code=code)]

    with pytest.raises(MeteringError) as caught:
        await metering.record_call("acme", "DetectAuth")

    assert caught.value.code is code
    assert not caught.value.is_retryable()
    assert time.pauses_s == []


async def test_a_message_that_is_too_large_is_not_sent_again(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    call = metering.call_record("a" * 64, "b" * 64, result_code="c" * 64)

    with pytest.raises(MeteringError) as caught:
        await metering.batch_record_calls([call] * 20_000)

    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert time.pauses_s == []


async def test_a_service_that_comes_back_is_found_again() -> None:
    server = ScriptedServer()
    server.script["RecordCall"] = [RECORDED, RECORDED]
    async with server.running():
        metering = server.client(Runtime())
        await metering.record_call("acme", "DetectAuth")

    async with metering:
        recording = asyncio.create_task(metering.record_call("acme", "DetectAuth"))
        await asyncio.sleep(0.5)
        assert not recording.done()
        async with server.running():
            assert await recording == RECORDED
