import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
import pytest

from faceid.metering.v1.metering_service_pb2 import ListCallsResponse, WatchServiceStatusResponse
from faceid.metering.v1.resources_pb2 import CallRecord, RecordedCall, ServiceStatus
from faceid_metering import ClientConfig, MeteringClient, MeteringError, Runtime
from tests.support.scripted_server import HANG, UNAVAILABLE, Failure, FakeTime, ScriptedServer


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def metering(server: ScriptedServer, time: FakeTime) -> AsyncIterator[MeteringClient]:
    async with server.client(time.runtime) as metering:
        yield metering


def status(version: int) -> WatchServiceStatusResponse:
    return WatchServiceStatusResponse(service_status=ServiceStatus(account_id="acme", version=version))


def page(day: int, *numbers: int) -> ListCallsResponse:
    """Return calls of a day, and the token to go on after them."""
    calls = [
        RecordedCall(call=CallRecord(call_id=f"01933f6e-0000-7000-8000-{number:012}"), occurred_on=f"2026-11-{day:02}")
        for number in numbers
    ]
    return ListCallsResponse(calls=calls, next_page_token=f"{day}/{numbers[-1]}")


async def watch(metering: MeteringClient, count: int) -> list[int]:
    versions: list[int] = []
    async with aclosing(metering.watch_service_status(["acme"])) as statuses:
        async for service_status in statuses:
            versions.append(service_status.version)
            if len(versions) == count:
                break
    return versions


async def list_all(metering: MeteringClient) -> list[RecordedCall]:
    return [recorded async for recorded in metering.list_calls("acme", "2026-11")]


async def test_a_watch_goes_on_after_the_connection_was_lost(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    server.script["WatchServiceStatus"] = [[status(1), UNAVAILABLE], [UNAVAILABLE], [status(2), status(3), HANG]]

    with caplog.at_level(logging.WARNING, "faceid_metering"):
        assert await watch(metering, 3) == [1, 2, 3]

    first, *others = server.requests["WatchServiceStatus"]
    assert list(first.account_ids) == ["acme"]
    assert others == [first, first]
    assert time.pauses_s == pytest.approx([0.1, 0.2])
    assert len(caplog.records) == 2


async def test_a_watch_leaves_out_heartbeats(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["WatchServiceStatus"] = [[status(1), WatchServiceStatusResponse(), status(2), HANG]]

    assert await watch(metering, 2) == [1, 2]


async def test_a_watch_goes_on_after_the_service_ended_it(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["WatchServiceStatus"] = [[status(1)], [status(1), status(2), HANG]]

    assert await watch(metering, 3) == [1, 1, 2]


async def test_a_watch_goes_on_with_a_service_that_was_started_anew() -> None:
    server = ScriptedServer()
    server.script["WatchServiceStatus"] = [[status(1), HANG], [status(2), HANG]]
    async with server.running():
        metering = server.client(Runtime())
        statuses = metering.watch_service_status()
        assert (await anext(statuses)).version == 1

    async with metering, server.running():
        assert (await anext(statuses)).version == 2
        await statuses.aclose()


async def test_a_watch_pauses_longer_each_time_that_the_service_fails_right_after_the_start(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["WatchServiceStatus"] = [[status(1), UNAVAILABLE] for _ in range(6)]
    server.script["WatchServiceStatus"].append([status(2), HANG])

    await watch(metering, 7)

    assert time.pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])


async def test_a_watch_that_lasted_pauses_shortly_again(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["WatchServiceStatus"] = [
        [UNAVAILABLE],
        [UNAVAILABLE],
        [status(1), UNAVAILABLE],
        [status(2), HANG],
    ]

    async with aclosing(metering.watch_service_status()) as statuses:
        await anext(statuses)
        await time.runtime.sleep(60)
        await anext(statuses)

    assert time.pauses_s == pytest.approx([0.1, 0.2, 60, 0.1])


async def test_a_watch_heeds_when_the_service_wants_to_be_asked_again(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["WatchServiceStatus"] = [
        [Failure(code=grpc.StatusCode.UNAVAILABLE, reason="SHUTTING_DOWN", retry_after_s=5)],
        [status(1), HANG],
    ]

    await watch(metering, 1)

    assert time.pauses_s == pytest.approx([5.1])


async def test_a_watch_that_is_refused_raises(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["WatchServiceStatus"] = [[Failure(code=grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_FIELD")]]

    with pytest.raises(MeteringError) as caught:
        await watch(metering, 1)

    assert caught.value.reason == "INVALID_FIELD"


async def test_a_watch_ends_when_the_client_is_closed(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["WatchServiceStatus"] = [[status(1), HANG]]
    statuses = metering.watch_service_status()
    await anext(statuses)
    waiting = asyncio.create_task(anext(statuses, None))
    await asyncio.sleep(0.05)

    await metering.close()

    assert await waiting is None


async def test_a_watch_that_is_left_ends_on_the_server_too(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["WatchServiceStatus"] = [[status(1), HANG]]

    await watch(metering, 1)

    await server.ended["WatchServiceStatus"].wait()


async def test_a_list_goes_on_after_the_last_page_when_the_connection_is_lost(
    server: ScriptedServer, metering: MeteringClient
) -> None:
    server.script["ListCalls"] = [[page(1, 7, 8), page(2, 1), UNAVAILABLE], [UNAVAILABLE], [page(2, 2), page(3, 1)]]

    assert await list_all(metering) == [*page(1, 7, 8).calls, *page(2, 1, 2).calls, *page(3, 1).calls]

    requests = server.requests["ListCalls"]
    assert [request.page_token for request in requests] == ["", "2/1", "2/1"]
    assert {(request.account_id, request.month, request.page_size) for request in requests} == {
        ("acme", "2026-11", 1_000)
    }


async def test_a_list_goes_on_from_a_token_that_was_kept(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["ListCalls"] = [[page(2, 2)]]

    pages = [each async for each in metering.list_call_pages("acme", "2026-11", page_token="2/1", page_size=7)]

    assert pages == [page(2, 2)]
    (request,) = server.requests["ListCalls"]
    assert (request.page_token, request.page_size) == ("2/1", 7)


async def test_a_list_that_stalls_goes_on(server: ScriptedServer, time: FakeTime) -> None:
    server.script["ListCalls"] = [[page(1, 1), HANG], [page(1, 2)]]

    async with server.client(time.runtime, ClientConfig(attempt_timeout_s=0.2)) as metering:
        assert await list_all(metering) == [*page(1, 1, 2).calls]


async def test_a_list_without_progress_ends_with_the_last_error(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["ListCalls"] = [[page(1, 1), UNAVAILABLE], *([UNAVAILABLE] for _ in range(100))]

    with pytest.raises(MeteringError):
        await list_all(metering)

    assert 8 <= time.passed_s() < 10


async def test_a_reader_may_take_its_time_with_each_call(
    server: ScriptedServer, metering: MeteringClient, time: FakeTime
) -> None:
    server.script["ListCalls"] = [[page(1, 1), UNAVAILABLE], [page(1, 2)]]

    async with aclosing(metering.list_calls("acme", "2026-11")) as calls:
        await anext(calls)
        await time.runtime.sleep(3600)
        assert await anext(calls) == page(1, 2).calls[0]
