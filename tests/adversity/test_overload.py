"""More than can be served, and clients that hold on to what they have: others are served all the same."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from faceid.metering.v1 import metering_service_pb2 as pb
from metering.rpc import server as server_module
from metering.rpc.permissions import PERMISSIONS
from tests.support.locks import held
from tests.support.service import FakeClock, Service, Stubs, reason_of, retry_after_s
from tests.support.waiting import LONG_S, until

WATCH = "/faceid.metering.v1.MeteringService/WatchServiceStatus"
_ESTABLISHED = "01"
NOTHING_IS_RECORDED = "LOCK TABLE usage_deltas IN ACCESS EXCLUSIVE MODE"
LIST = "/faceid.metering.v1.MeteringService/ListCalls"


async def test_what_is_too_much_is_refused_at_once_and_all_goes_on_when_there_is_room(
    database_url: str, clock: FakeClock
) -> None:
    async with Service(database_url, clock, queue_calls=50) as service:
        await service.activate("acme")
        calls = [service.call("acme") for _ in range(300)]
        loop = asyncio.get_running_loop()

        async def record(number: int) -> str:
            begin = loop.time()
            try:
                await service.record(calls[number])
            except grpc.aio.AioRpcError as error:
                assert reason_of(error) == "QUEUE_FULL"
                assert retry_after_s(error)
                assert loop.time() - begin < LONG_S / 6, "refused, but late"
                return "refused"
            return "recorded"

        async with held(database_url, NOTHING_IS_RECORDED):
            sent = [asyncio.create_task(record(number)) for number in range(300)]
            await until(lambda: sum(each.done() for each in sent) == 250)
            assert (await service.status("acme")).account_id == "acme"
        outcomes = await asyncio.gather(*sent)
        assert (outcomes.count("recorded"), outcomes.count("refused")) == (50, 250)
        # What was refused was not recorded, and is when it comes again.
        for number, outcome in enumerate(outcomes):
            answer = await service.record(calls[number])
            assert answer.duplicate == (outcome == "recorded")
        assert (await service.usage("acme", "2026-11")).total_calls == 300


async def test_a_worker_that_cannot_keep_up_is_not_ready_and_is_again_by_itself(
    database_url: str, clock: FakeClock
) -> None:
    async with Service(database_url, clock, queue_wait_s=0.2) as service:
        await service.activate("acme")
        await until(lambda: not service.app.not_ready())
        async with held(database_url, NOTHING_IS_RECORDED):
            waiting = asyncio.create_task(service.record(service.call("acme")))
            await until(lambda: "the oldest call has been waiting" in service.app.not_ready())
        await waiting
        await until(lambda: not service.app.not_ready())


@pytest.mark.parametrize("method", [WATCH, LIST])
async def test_streams_are_bounded_and_one_that_ends_makes_room(
    database_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    limited = {name: each for name, each in PERMISSIONS.items() if name != method}
    limited[method] = type(PERMISSIONS[method])(PERMISSIONS[method].roles, streams_max=3)
    monkeypatch.setattr("metering.rpc.edge.PERMISSIONS", limited)
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        for _ in range(2):
            await service.record(service.call("acme"))

        async def open_stream() -> grpc.aio.UnaryStreamCall[object, object]:
            stream = (
                service.metering.WatchServiceStatus(pb.WatchServiceStatusRequest(account_ids=["acme"]))
                if method == WATCH
                else service.metering.ListCalls(pb.ListCallsRequest(account_id="acme", month="2026-11"))
            )
            assert await stream.read() is not grpc.aio.EOF
            return stream

        # A list that is not read to its end stays under way: what it has sent fits into its window, but not its end.
        streams = [await open_stream() for _ in range(3)]
        if method == WATCH:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await open_stream()
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(refused.value) == "TOO_MANY_STREAMS"
            assert retry_after_s(refused.value)
        streams.pop().cancel()

        async def there_is_room() -> bool:
            try:
                streams.append(await open_stream())
            except grpc.aio.AioRpcError as error:
                assert reason_of(error) == "TOO_MANY_STREAMS"
                return False
            return True

        async with asyncio.timeout(LONG_S):
            while not await there_is_room():
                await asyncio.sleep(0.01)
        for stream in streams:
            stream.cancel()


async def test_connections_are_bounded_and_one_that_ends_makes_room(database_url: str, clock: FakeClock) -> None:
    async with Service(database_url, clock, connections=5) as service:
        host, _, port = service.target.rpartition(":")
        await service.activate("acme")
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(socket.create_connection((host, int(port))))
            # Who is connected is served; who comes now is turned away.
            assert (await service.status("acme")).account_id == "acme"
            async with grpc.aio.insecure_channel(
                service.target, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as late:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await Stubs(late, clock).metering.CheckServiceStatus(
                        pb.CheckServiceStatusRequest(account_id="acme"), timeout=2
                    )
                assert refused.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        async with grpc.aio.insecure_channel(
            service.target, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            request = pb.CheckServiceStatusRequest(account_id="acme")
            await Stubs(channel, clock).metering.CheckServiceStatus(request, timeout=LONG_S, wait_for_ready=True)


async def test_who_connects_and_says_nothing_or_half_of_it_is_not_waited_for(
    database_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_MS", 300)
    async with Service(database_url, clock) as service:
        host, _, port = service.target.rpartition(":")
        await service.activate("acme")
        silent = await asyncio.open_connection(host, int(port))
        slow = await asyncio.open_connection(host, int(port))
        slow[1].write(b"PRI * HTTP/2.0\r\n\r\nS")
        async with asyncio.timeout(LONG_S):
            for reader, writer in (silent, slow):
                while await reader.read(1_024):  # what the server says before it hangs up
                    pass
                writer.close()
        assert (await service.status("acme")).account_id == "acme"


async def test_a_connection_is_made_anew_after_a_while_and_no_request_is_lost_by_it(
    database_url: str, clock: FakeClock
) -> None:
    async with Service(database_url, clock, connection_age_s=1.0) as service:
        await service.activate("acme")
        watch = service.metering.WatchServiceStatus(pb.WatchServiceStatusRequest(account_ids=["acme"], heartbeats=True))
        port = int(service.target.rpartition(":")[2])
        connections: set[int] = set()
        recorded = 0
        async with asyncio.timeout(LONG_S):
            while len(connections) < 3:
                await service.record(service.call("acme"))
                recorded += 1
                connections |= _ports_connected_to(port)
        assert (await service.usage("acme", "2026-11")).total_calls == recorded
        # What was under way on the first connection goes on there.
        async with asyncio.timeout(LONG_S):
            assert [await watch.read() for _ in range(5)]
        watch.cancel()


def _ports_connected_to(port: int) -> set[int]:
    """Return the local ports of the connections to a port of this machine; gRPC makes them over IPv6 to IPv4."""
    found = set()
    for line in Path("/proc/self/net/tcp6").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == _ESTABLISHED and remote.endswith(f":{port:04X}"):
            found.add(int(local.rpartition(":")[2], 16))
    return found
