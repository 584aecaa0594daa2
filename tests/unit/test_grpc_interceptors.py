"""The interceptors on real servers: of asyncio and of threads, with every kind of RPC."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc
import pytest

from faceid_metering.grpc_server import MeteringInterceptor, SyncMeteringInterceptor
from faceid_metering.serving import Metered
from tests.support.recording import NOW, RecordedInMemory
from tests.support.service import reason_of
from tests.support.waiting import until

CALL_ID = "0192f0c1-2345-7abc-8def-0123456789ab"
METADATA = (("account", "acme"), ("request-id", CALL_ID))
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
Channel: TypeAlias = grpc.aio.Channel


def identify(details: grpc.HandlerCallDetails) -> Metered | None:
    metadata = dict(details.invocation_metadata or ())
    if "account" not in metadata:
        return None
    api = (details.method or "").rpartition("/")[2]
    return Metered(account_id=str(metadata["account"]), api=api, call_id=str(metadata["request-id"]))


async def text_of(requests: Any) -> bytes:
    return requests if isinstance(requests, bytes) else b"".join([each async for each in requests])


async def aio_unary(requests: Any, context: Any) -> bytes:
    text = await text_of(requests)
    if text == b"abort":
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such face")
    if text == b"set":
        context.set_code(grpc.StatusCode.DATA_LOSS)
    if text == b"fail":
        raise ZeroDivisionError
    if text == b"hang":
        await asyncio.Event().wait()
    return text


async def aio_stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
    text = await text_of(requests)
    if text != b"hang":
        yield b"first"
    yield await aio_unary(b"hang" if text == b"hang later" else text, context)


async def aio_writer(request: bytes, context: Any) -> None:
    await context.write(request)


def sync_unary(requests: Any, context: Any) -> bytes:
    text = requests if isinstance(requests, bytes) else b"".join(requests)
    if text == b"abort":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such face")
    if text == b"set":
        context.set_code(grpc.StatusCode.DATA_LOSS)
    if text == b"fail":
        raise ZeroDivisionError
    return text


def sync_stream(requests: Any, context: Any) -> Iterator[bytes]:
    yield b"first"
    text = requests if isinstance(requests, bytes) else b"".join(requests)
    while text == b"hang later" and context.is_active():
        yield b"more"
    yield sync_unary(text, context)


def handlers(unary: Any, stream: Any) -> dict[str, Any]:
    return {
        "unary_unary": grpc.unary_unary_rpc_method_handler(unary),
        "unary_stream": grpc.unary_stream_rpc_method_handler(stream),
        "stream_unary": grpc.stream_unary_rpc_method_handler(unary),
        "stream_stream": grpc.stream_stream_rpc_method_handler(stream),
        "writer": grpc.unary_stream_rpc_method_handler(aio_writer),
    }


@pytest.fixture
def metering() -> RecordedInMemory:
    return RecordedInMemory()


@pytest.fixture
async def aio_channel(metering: RecordedInMemory) -> AsyncIterator[Channel]:
    server = grpc.aio.server(interceptors=[MeteringInterceptor(metering, identify, time_s=NOW.timestamp)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Face", handlers(aio_unary, aio_stream)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
async def sync_channel(metering: RecordedInMemory) -> AsyncIterator[Channel]:
    with ThreadPoolExecutor(4) as threads:
        interceptor = SyncMeteringInterceptor(metering, identify, time_s=NOW.timestamp)
        server = grpc.server(threads, interceptors=[interceptor])
        generic = grpc.method_handlers_generic_handler("Face", handlers(sync_unary, sync_stream))
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        server.stop(None).wait()


@pytest.fixture(params=["aio", "sync"])
def channel(request: pytest.FixtureRequest) -> Channel:
    return request.getfixturevalue(f"{request.param}_channel")


def start(channel: Channel, kind: str, text: Any, metadata: Any = METADATA) -> Any:
    method: Any = getattr(channel, "unary_stream" if kind == "writer" else kind)(f"/Face/{kind}")
    streams = kind.startswith("stream") and isinstance(text, bytes)
    return method(iter([text]) if streams else text, metadata=metadata, timeout=10)


async def finish(call: Any, kind: str) -> list[bytes]:
    return [await call] if kind.endswith("unary") else [response async for response in call]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_served_rpc_is_recorded_once_with_the_time_it_came_in(
    channel: Channel, metering: RecordedInMemory, kind: str
) -> None:
    responses = await finish(start(channel, kind, b"hello"), kind)

    assert responses[-1] == b"hello"
    await until(lambda: metering.calls)
    assert metering.calls == [("acme", kind, CALL_ID, NOW, "")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "code"), [(b"abort", "NOT_FOUND"), (b"fail", "UNKNOWN"), (b"set", "DATA_LOSS")])
async def test_the_result_code_is_the_status(
    channel: Channel, metering: RecordedInMemory, kind: str, text: bytes, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await finish(start(channel, kind, text), kind)

    assert failed.value.code().name == code
    await until(lambda: metering.calls)
    assert metering.result_codes == [f"GRPC.{code}"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_suspended_account_is_denied_and_not_recorded(
    channel: Channel, metering: RecordedInMemory, kind: str
) -> None:
    metering.suspended.add("acme")
    ended = asyncio.Event()

    async def silence() -> AsyncIterator[bytes]:
        """Send nothing: a client that is sending while it is denied may hear of that only, and not of the status."""
        await ended.wait()
        yield b"never heard"

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await finish(start(channel, kind, silence() if kind.startswith("stream") else b"hello"), kind)
    ended.set()

    assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(failed.value) == "ACCOUNT_SUSPENDED"
    assert metering.calls == []


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_metered_passes_through(channel: Channel, metering: RecordedInMemory, kind: str) -> None:
    metering.suspended.add("acme")
    assert (await finish(start(channel, kind, b"hello", ()), kind))[-1] == b"hello"
    assert metering.calls == []


async def test_a_stream_left_after_its_first_message_is_recorded(channel: Channel, metering: RecordedInMemory) -> None:
    call = start(channel, "unary_stream", b"hang later")
    assert await anext(aiter(call)) == b"first"

    call.cancel()

    await until(lambda: metering.calls)
    assert metering.result_codes == ["GRPC.CANCELLED"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_rpc_left_before_it_was_served_is_not_recorded(
    aio_channel: Channel, metering: RecordedInMemory, kind: str
) -> None:
    call = start(aio_channel, kind, b"hang")
    waiting = asyncio.create_task(finish(call, kind))
    await until(lambda: metering.asked)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await finish(start(aio_channel, kind, b"after"), kind)

    await until(lambda: metering.calls)
    assert metering.result_codes == [""]


async def test_a_handler_that_writes_by_itself_is_recorded(aio_channel: Channel, metering: RecordedInMemory) -> None:
    assert await finish(start(aio_channel, "writer", b"hello"), "writer") == [b"hello"]
    await until(lambda: metering.calls)
    assert metering.result_codes == [""]


async def test_an_unknown_method_is_unimplemented_and_not_recorded(
    channel: Channel, metering: RecordedInMemory
) -> None:
    unknown: Any = channel.unary_unary("/Face/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await unknown(b"", metadata=METADATA)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert metering.calls == []
