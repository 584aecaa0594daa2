"""Bad input gets a clear error, and nothing is lost."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import metering_service_pb2 as metering_pb
from faceid.metering.v1 import resources_pb2 as pb
from tests.support.service import FakeClock, Service, fields_of, reason_of, standard_plan

INVALID = grpc.StatusCode.INVALID_ARGUMENT
Change = Callable[[pb.CallRecord], object]

MALFORMED_CALLS: dict[str, tuple[str, Change]] = {
    "no account": ("account_id", lambda call: call.ClearField("account_id")),
    "an account with a space": ("account_id", lambda call: setattr(call, "account_id", "a b")),
    "an account with a NUL": ("account_id", lambda call: setattr(call, "account_id", "a\0b")),
    "an account that is too long": ("account_id", lambda call: setattr(call, "account_id", "a" * 65)),
    "no api": ("api", lambda call: call.ClearField("api")),
    "an api with a quote": ("api", lambda call: setattr(call, "api", "x'; DROP TABLE calls; --")),
    "no call_id": ("call_id", lambda call: call.ClearField("call_id")),
    "a call_id that is no UUID": ("call_id", lambda call: setattr(call, "call_id", "7")),
    "a call_id in braces": ("call_id", lambda call: setattr(call, "call_id", "{" + str(uuid4()) + "}")),
    "no time and no UUIDv7": ("occurred_at", lambda call: call.ClearField("occurred_at")),
    "nanoseconds out of range": ("occurred_at", lambda call: setattr(call.occurred_at, "nanos", -1)),
    "the year 10000": ("occurred_at", lambda call: setattr(call.occurred_at, "seconds", 253402300800)),
    "a result code with a line break": ("result_code", lambda call: setattr(call, "result_code", "a\nb")),
}


@pytest.mark.parametrize("malformed", MALFORMED_CALLS)
async def test_a_malformed_call_is_refused_and_the_field_is_named(service: Service, malformed: str) -> None:
    await service.activate("acme")
    field, change = MALFORMED_CALLS[malformed]
    call = service.call("acme")
    change(call)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.record(call)
    assert (error.value.code(), reason_of(error.value), fields_of(error.value)) == (INVALID, "INVALID_FIELD", [field])
    assert (error.value.details() or "").startswith(f"{field}: ")
    assert await service.rejected() == []


async def test_one_bad_record_never_fails_its_neighbours(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(len(MALFORMED_CALLS) * 2)]
    for index, (_, change) in enumerate(MALFORMED_CALLS.values()):
        change(calls[2 * index])
    response = await service.record_batch(calls)
    assert (response.accepted, response.duplicates) == (len(MALFORMED_CALLS), 0)
    assert [(rejection.index, rejection.reason) for rejection in response.rejections] == [
        (2 * index, "INVALID_FIELD") for index in range(len(MALFORMED_CALLS))
    ]
    assert [rejection.call_id for rejection in response.rejections] == [call.call_id for call in calls[::2]]
    assert (await service.usage("acme", "2026-11")).total_calls == len(MALFORMED_CALLS)


async def test_a_call_of_an_unknown_account_is_kept_and_can_be_recorded_later(service: Service) -> None:
    call = service.call("late-starter", result_code="E.7")
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.record(call)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert reason_of(error.value) == "ACCOUNT_NOT_FOUND"
    (rejected,) = await service.rejected("late-starter")
    assert rejected.call == call
    assert rejected.reason == "ACCOUNT_NOT_FOUND"
    await service.activate("late-starter")
    assert not (await service.record(rejected.call)).duplicate


@pytest.mark.parametrize(
    "off", [timedelta(minutes=5, microseconds=1), -timedelta(days=62, microseconds=1)], ids=["ahead", "back"]
)
async def test_a_call_too_far_ahead_or_back_is_rejected_and_kept(
    service: Service, clock: FakeClock, off: timedelta
) -> None:
    await service.activate("acme")
    just_right = timedelta(microseconds=-1 if off > timedelta() else 1)
    assert not (await service.record(service.call("acme", at=clock.now() + off + just_right))).duplicate
    call = service.call("acme", at=clock.now() + off)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.record(call)
    assert (error.value.code(), reason_of(error.value)) == (INVALID, "OCCURRED_AT_OUT_OF_RANGE")
    assert fields_of(error.value) == ["occurred_at"]
    assert [rejected.call for rejected in await service.rejected("acme")] == [call]


async def test_more_than_10000_records_are_refused_as_a_whole(service: Service) -> None:
    await service.activate("acme")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.record_batch([service.call("acme") for _ in range(11_000)])
    assert (error.value.code(), reason_of(error.value)) == (INVALID, "TOO_MANY_RECORDS")
    assert (await service.usage("acme", "2026-11")).total_calls == 0
    assert (await service.record_batch([service.call("acme") for _ in range(10_000)])).accepted == 10_000


async def test_an_empty_batch_is_fine(service: Service) -> None:
    assert await service.record_batch([]) == metering_pb.BatchRecordCallsResponse()


async def test_rejected_calls_are_bounded_per_account_and_what_is_dropped_is_counted(service: Service) -> None:
    response = await service.record_batch([service.call("nobody") for _ in range(1_500)])
    assert len(response.rejections) == 1_500
    await service.record_batch([service.call("somebody-else")])
    request = accounts_pb.ListRejectedCallsRequest(page_size=700)
    seen: list[str] = []
    while True:
        page = await service.accounts.ListRejectedCalls(request)
        seen += [rejected.call.call_id for rejected in page.rejected_calls]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(seen) == len(set(seen)) == 1_001
    dropped = service.metrics.registry.get_sample_value("metering_rejected_calls_dropped_total")
    assert dropped == 500


@pytest.mark.parametrize(
    "month", ["", "2026-13", "2026-1", "202611", "2026-11-01", "0000-01", "２０２６-11", "2026-11\n"]
)
async def test_a_malformed_month_is_refused(service: Service, month: str) -> None:
    await service.activate("acme")
    for ask in (service.usage("acme", month), service.close_month(month), service.deduct("acme", month)):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask
        assert (error.value.code(), fields_of(error.value)) == (INVALID, ["month"])


async def test_the_running_month_cannot_be_closed(service: Service) -> None:
    for dry_run in (False, True):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.close_month("2026-11", dry_run=dry_run)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(error.value) == "MONTH_NOT_ENDED"


async def test_asking_about_an_unknown_account_is_not_found(service: Service) -> None:
    asks = {
        "usage": service.usage("nobody", "2026-11"),
        "deduct": service.deduct("nobody", "2026-10"),
        "account": service.account("nobody"),
        "bill": service.bill("nobody", "2026-10"),
        "pay": service.pay("nobody", "1"),
        "calls": service.list_calls("nobody", "2026-11"),
        "assign": service.assign_plan("nobody", "p", "2026-12"),
    }
    for name, ask in asks.items():
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND"), name


def bad_plan(change: Callable[[pb.PricePlan], object]) -> pb.PricePlan:
    plan = standard_plan()
    change(plan)
    return plan


BAD_PLANS = {
    "price_plan.currency": bad_plan(lambda plan: setattr(plan, "currency", "XXX")),
    "price_plan.price_plan_id": bad_plan(lambda plan: setattr(plan, "price_plan_id", "")),
    "price_plan.prices": bad_plan(lambda plan: plan.ClearField("prices")),
    "price_plan.prices[1].api": bad_plan(lambda plan: setattr(plan.prices[1], "api", "DetectAuth")),
    "price_plan.prices[0]": bad_plan(lambda plan: plan.prices[0].ClearField("per_call")),
    "price_plan.prices[0].per_call.unit_price": bad_plan(
        lambda plan: setattr(plan.prices[0].per_call, "unit_price", "0.0000000001")
    ),
    "price_plan.prices[1].graduated.tiers[0].unit_price": bad_plan(
        lambda plan: setattr(plan.prices[1].graduated.tiers[0], "unit_price", "-1")
    ),
    "price_plan.prices[1].graduated.tiers[1].up_to": bad_plan(
        lambda plan: setattr(plan.prices[1].graduated.tiers[1], "up_to", 2000)
    ),
    "price_plan.prices[2].volume.tiers[0].up_to": bad_plan(
        lambda plan: setattr(plan.prices[2].volume.tiers[0], "up_to", 0)
    ),
    "price_plan.prices[2].free_calls": bad_plan(lambda plan: setattr(plan.prices[2], "free_calls", -1)),
}


@pytest.mark.parametrize("field", BAD_PLANS)
async def test_a_bad_price_plan_is_refused_and_the_field_is_named(service: Service, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.put_plan(BAD_PLANS[field])
    assert (error.value.code(), fields_of(error.value)) == (INVALID, [field])


async def test_a_page_token_that_is_not_ours_is_refused(service: Service) -> None:
    await service.activate("acme")
    for ask in (
        service.accounts.ListRejectedCalls(accounts_pb.ListRejectedCallsRequest(page_token="bm9uc2Vuc2U=")),
        service.accounts.ListBills(accounts_pb.ListBillsRequest(account_id="acme", page_token="%%%")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask
        assert (error.value.code(), fields_of(error.value)) == (INVALID, ["page_token"])


@pytest.mark.parametrize("data", [b"\x0a\x04\xff\xfe\xc0\x80", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 5_000])
@pytest.mark.parametrize(
    "method",
    [
        "faceid.metering.v1.MeteringService/RecordCall",
        "faceid.metering.v1.MeteringService/ListCalls",
        "faceid.metering.v1.AccountService/GetBill",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_request_that_is_no_message_is_refused(service: Service, method: str, data: bytes) -> None:
    channel: Any = service.channel  # bytes go over it as they are
    if method.endswith("ServerReflectionInfo"):
        asking = anext(aiter(channel.stream_stream(f"/{method}")(iter([data]))))
    elif method.endswith(("ListCalls", "Watch")):
        asking = anext(aiter(channel.unary_stream(f"/{method}")(data)))
    else:
        asking = channel.unary_unary(f"/{method}")(data)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asking
    assert (error.value.code(), reason_of(error.value)) == (INVALID, "INVALID_FIELD")
    assert fields_of(error.value) == ["request"]


async def test_health_can_be_watched(service: Service) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    async for answer in health.Watch(health_pb2.HealthCheckRequest()):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            break
    async for answer in health.Watch(health_pb2.HealthCheckRequest(service="nobody")):
        assert answer.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        break


async def test_health_of_an_unknown_service_is_not_found(service: Service) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_method_that_is_not_served_says_so(service: Service) -> None:
    channel: Any = service.channel
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary("/grpc.health.v1.Health/List")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_answer_to_nothing_but_bad_records_is_one_that_a_client_takes(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("\U0001d7dc" * 64) for _ in range(10_000)]
    assert len((await service.record_batch(calls)).rejections) == 10_000
    response = await service.record_batch([service.call("acme", call_id="7" * 4_194_000), service.call("acme")])
    assert (response.accepted, len(response.rejections)) == (1, 1)
    assert response.rejections[0].call_id == "7" * 64


async def test_a_payment_that_no_balance_can_hold_is_refused(service: Service) -> None:
    await service.activate("acme")
    await service.pay("acme", str(10**18), "first")
    for amount_paid, payment_id in (("0.01", "second"), (str(2**63 - 1), "third")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.pay("acme", amount_paid, payment_id)
        assert (error.value.code(), fields_of(error.value)) == (INVALID, ["amount"])
    assert (await service.pay("acme", str(10**18), "first")).duplicate
    assert (await service.account("acme")).balance.units == 10**18
