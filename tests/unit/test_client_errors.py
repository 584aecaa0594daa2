import asyncio
import pickle
from dataclasses import dataclass

import grpc
import pytest
from grpc import aio

from faceid_metering import ClientConfig, MeteringClient, MeteringError, Runtime
from tests.support.scripted_server import HANG, Failure, FakeTime, ScriptedServer


async def fail(server: ScriptedServer, failure: Failure) -> MeteringError:
    server.script["GetAccount"] = [failure]
    no_retries = ClientConfig(back_off_initial_s=60, back_off_max_s=60)
    async with server.client(FakeTime().runtime, no_retries) as metering:
        with pytest.raises(MeteringError) as caught:
            await metering.get_account("acme")
    return caught.value


async def test_an_error_tells_all_that_the_service_said(server: ScriptedServer) -> None:
    error = await fail(
        server,
        Failure(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            message="call_id: no UUID",
            reason="INVALID_FIELD",
            fields=(("call_id", "no UUID"), ("api", "is missing")),
            retry_after_s=0.25,
        ),
    )

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "INVALID_FIELD"
    assert error.message == "call_id: no UUID"
    assert error.fields == (("call_id", "no UUID"), ("api", "is missing"))
    assert error.retry_after_s == 0.25
    assert str(error) == "INVALID_FIELD: call_id: no UUID"
    assert isinstance(error.__cause__, aio.AioRpcError)


async def test_an_error_without_details_is_told_by_its_code(server: ScriptedServer) -> None:
    error = await fail(server, Failure(code=grpc.StatusCode.PERMISSION_DENIED, message="not you"))

    assert (error.reason, error.fields, error.retry_after_s) == ("", (), None)
    assert str(error) == "PERMISSION_DENIED: not you"


async def test_a_reason_of_somebody_else_is_not_taken_for_the_services_own(server: ScriptedServer) -> None:
    error = await fail(
        server, Failure(code=grpc.StatusCode.NOT_FOUND, reason="ACCOUNT_NOT_FOUND", domain="proxy.example")
    )

    assert error.reason == ""


async def test_garbled_details_leave_the_code(server: ScriptedServer) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Garbled(Failure):
        def details(self) -> bytes:
            return b"\xff"

    error = await fail(server, Garbled(code=grpc.StatusCode.NOT_FOUND, reason="ACCOUNT_NOT_FOUND"))

    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "")


async def test_a_negative_delay_is_no_delay(server: ScriptedServer) -> None:
    error = await fail(server, Failure(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=-5))

    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.retry_after_s == 0


async def test_a_request_that_a_stopping_server_cancels_may_be_sent_again(server: ScriptedServer) -> None:
    error = await fail(server, Failure(code=grpc.StatusCode.CANCELLED))

    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.is_retryable()


async def test_a_wrong_address_is_told_soon() -> None:
    async with MeteringClient("127.0.0.1:1") as metering:
        with pytest.raises(MeteringError, match=r"no metering service answers at 127\.0\.0\.1:1"):
            await metering.wait_until_connected(0.2)


async def test_a_client_is_connected_once_the_service_answers(server: ScriptedServer) -> None:
    async with server.client(Runtime()) as metering:
        await metering.wait_until_connected(10)


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with MeteringClient("127.0.0.1:1", config=ClientConfig(timeout_s=0.5)) as metering:
        with pytest.raises(MeteringError) as caught:
            await metering.get_account("acme")

    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.is_retryable()


async def test_closing_the_client_ends_what_is_under_way(server: ScriptedServer) -> None:
    server.script["GetAccount"] = [HANG]
    metering = server.client(Runtime())
    asking = asyncio.create_task(metering.get_account("acme"))
    await server.begun["GetAccount"].wait()

    await metering.close()

    with pytest.raises(MeteringError, match="closed") as caught:
        await asking
    assert caught.value.code is grpc.StatusCode.CANCELLED
    with pytest.raises(MeteringError, match="closed"):
        await metering.get_account("acme")


async def test_a_cancelled_task_stays_cancelled(server: ScriptedServer) -> None:
    server.script["GetAccount"] = [HANG]
    async with server.client(Runtime()) as metering:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await metering.get_account("acme")


def test_an_error_survives_a_process_pool() -> None:
    error = MeteringError(grpc.StatusCode.NOT_FOUND, "no such account", "ACCOUNT_NOT_FOUND", (("a", "b"),), 1.0)

    copy = pickle.loads(pickle.dumps(error))

    assert copy.args == error.args
    assert copy.reason == error.reason


def test_a_client_is_made_within_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        MeteringClient("127.0.0.1:1")


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_times_of_no_length_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="back_off_max_s must be more than 0"):
        ClientConfig(back_off_max_s=seconds)
