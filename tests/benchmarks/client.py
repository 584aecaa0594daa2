"""Measures what the Python client costs a gateway: `make bench-client`.

The server, a process of its own, takes batches and throws them away. The client runs on asyncio's own event loop, as
it does in a gateway that has installed nothing else. Half a minute.
"""

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import grpc
import uvloop
from grpc import aio
from rich.console import Console
from rich.table import Table

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1.resources_pb2 import SERVICE_STATE_ACTIVE, ServiceStatus
from faceid_metering import ClientConfig, MeteringClient
from tests.benchmarks.echo import SERVER_OPTIONS
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.service import running_server

_REPETITIONS = 7
_CALLS = 50_000
_THROUGH_CALLS = 400_000
_CHUNK_CALLS = 500
_MEMORY_CALLS = 20_000
_ACCOUNTS = [f"bench-{number:06}" for number in range(1_000)]
_WITHIN_S = 30.0


async def _discard(_request: bytes, _context: aio.ServicerContext[Any, Any]) -> bytes:
    return b""


async def _watch(
    request: pb.WatchServiceStatusRequest, _context: aio.ServicerContext[Any, Any]
) -> AsyncIterator[pb.WatchServiceStatusResponse]:
    for account_id in request.account_ids:
        status = ServiceStatus(account_id=account_id, state=SERVICE_STATE_ACTIVE, version=1)
        yield pb.WatchServiceStatusResponse(service_status=status)
    while True:
        yield pb.WatchServiceStatusResponse()
        await asyncio.sleep(1)


async def _serve() -> None:
    """Serve until terminated; the port is printed."""
    handlers = {
        "BatchRecordCalls": grpc.unary_unary_rpc_method_handler(_discard),
        "WatchServiceStatus": grpc.unary_stream_rpc_method_handler(
            _watch,
            request_deserializer=pb.WatchServiceStatusRequest.FromString,
            response_serializer=pb.WatchServiceStatusResponse.SerializeToString,
        ),
    }
    generic = grpc.method_handlers_generic_handler("faceid.metering.v1.MeteringService", handlers)
    server = aio.server(handlers=[generic], options=SERVER_OPTIONS)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def _us_each(do: Callable[[str], object], arguments: Iterable[str]) -> float:
    """Return the time that one takes in a loop with nothing else to do, the loop's own time included."""
    count = 0
    start = perf_counter()
    for argument in arguments:
        do(argument)
        count += 1
    return (perf_counter() - start) / count * 1e6


async def _record_us(metering: MeteringClient, do: Callable[[str], object], arguments: list[str]) -> float:
    found = _us_each(do, arguments)
    await _settled(metering)
    return found


async def _settled(metering: MeteringClient) -> None:
    if not await metering.flush(_WITHIN_S) or metering.stats().dropped_calls:
        raise BenchmarkError(f"the calls were not all taken: {metering.stats()}")


async def _is_active_us(metering: MeteringClient, accounts: list[str]) -> float:
    async with asyncio.timeout(_WITHIN_S):
        for account_id in _ACCOUNTS:
            metering.is_active(account_id)
        while metering.stats().status_accounts < len(_ACCOUNTS):
            await asyncio.sleep(0.01)
    return _us_each(metering.is_active, accounts)


async def _calls_per_second(metering: MeteringClient, accounts: list[str]) -> float:
    """Record as fast as they are taken from us, and wait until the last one is answered."""
    room = ClientConfig().queue_calls // 2
    start = perf_counter()
    for _ in range(_THROUGH_CALLS // _CHUNK_CALLS):
        for account_id in accounts[:_CHUNK_CALLS]:
            metering.record(account_id, "DetectAuth")
        await asyncio.sleep(0)
        while metering.stats().waiting_calls > room:
            await asyncio.sleep(0.001)
    await _settled(metering)
    return _THROUGH_CALLS / (perf_counter() - start)


async def _bytes_per_call(metering: MeteringClient, accounts: list[str]) -> float:
    """Return the memory of a call that waits; the event loop gets no turn meanwhile, so that all of them do."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for account_id in accounts[:_MEMORY_CALLS]:
        metering.record(account_id, "DetectAuth")
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await _settled(metering)
    return taken / _MEMORY_CALLS


async def _measure(target: str) -> dict[str, list[float]]:
    accounts = (_ACCOUNTS * (_CALLS // len(_ACCOUNTS) + 1))[:_CALLS]
    found: dict[str, list[float]] = {}
    async with MeteringClient(target) as metering:
        await metering.wait_until_connected(_WITHIN_S)
        for _ in range(_REPETITIONS):
            call_ids = [str(uuid4()) for _ in range(_CALLS)]
            measured = {
                "record(), id generated, µs": await _record_us(
                    metering, lambda account_id: metering.record(account_id, "DetectAuth"), accounts
                ),
                "record(), UUIDv4 given, µs": await _record_us(
                    metering, lambda call_id: metering.record("bench-000000", "DetectAuth", call_id), call_ids
                ),
                "is_active(), known, µs": await _is_active_us(metering, accounts),
                "calls/s through to the server": await _calls_per_second(metering, accounts),
                "bytes per waiting call": await _bytes_per_call(metering, accounts),
            }
            for name, value in measured.items():
                found.setdefault(name, []).append(value)
    return found


def main() -> None:
    """Measure, and show."""
    try:
        with running_server("tests.benchmarks.client", "serve") as server:
            found = asyncio.run(_measure(f"127.0.0.1:{server.port}"))
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    table = Table(title=f"{_REPETITIONS} repetitions of {_CALLS:,} calls", title_justify="left")
    for number, heading in enumerate(("", "median", "min", "max")):
        table.add_column(heading, justify="right" if number else "left")
    for name, values in found.items():
        format_spec = ".2f" if name.endswith("µs") else ",.0f"
        table.add_row(name, *(format(of(values), format_spec) for of in (median, min, max)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvloop.run(_serve())
    else:
        main()
