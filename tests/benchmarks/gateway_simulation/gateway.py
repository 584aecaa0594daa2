"""A gateway of asyncio in a process of its own, with the meter in the path of its requests, or without.

Its requests take no time of their own, so that all time is the meter's or the machine's. It notes when each was sent,
when its turn came, and when it was through; and when the event loop was busy with anything but requests, which is the
client's work. It ends with SIGTERM, once all is delivered.
"""

import asyncio
import pickle
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, thread_time

from faceid_metering import ClientConfig, ClientStats, Durability, MeteringClient
from tests.benchmarks.gateway_simulation.gateway_log import GatewayLog
from tests.benchmarks.gateway_simulation.requests import REQUEST, account_id, call_id
from tests.benchmarks.processes import question

_SAMPLE_S = 0.05
_SAFE_S = 0.005


@dataclass(frozen=True)
class GatewayPlan:
    """What kind of gateway."""

    port: int
    """Where it takes requests; 0: it picks one. It says which."""
    log: str
    """The file that its GatewayLog is written to at the end."""
    target: str = ""
    """Of the metering service; empty: no meter."""
    spool_dir: str = ""
    durability: str = Durability.MEMORY
    tell_safe: bool = False
    """Whether it says from which request on (`first N`) and up to which (`safe N`) its calls would survive it."""
    deliver_within_s: float = 60.0


class Gateway(asyncio.Protocol):
    """Takes requests, and asks and tells the meter, if it has one."""

    def __init__(self, metering: MeteringClient | None) -> None:
        self.log = GatewayLog()
        self.first = self.last = -1
        self.own_turns = 0
        """Callbacks that are not the client's."""
        self.idle = asyncio.Event()
        self.idle.set()
        self._metering = metering
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.idle.clear()

    def connection_lost(self, error: Exception | None) -> None:
        self.idle.set()

    def data_received(self, data: bytes) -> None:
        self.own_turns += 1
        data = self._rest + data
        whole = len(data) - len(data) % REQUEST.size
        self._rest = data[whole:]
        for sent_at, number in REQUEST.iter_unpack(data[:whole]):
            self._serve(sent_at, number)

    def _serve(self, sent_at: float, number: int) -> None:
        account, request_id = account_id(number), call_id(number)
        began_at, processor_s = monotonic(), thread_time()
        if self._metering is not None:
            if not self._metering.is_active(account):
                self.log.denied += 1
            self._metering.record(account, "DetectAuth", request_id)
        self.log.processor_s.append(thread_time() - processor_s)
        self.log.ended_at.append(monotonic())
        self.log.sent_at.append(sent_at)
        self.log.began_at.append(began_at)
        if self.first < 0:
            self.first = number
        self.last = number

    def watch_the_loop(self) -> None:
        """Note what the event loop does besides serving requests."""
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            own_turns, processor_s = self.own_turns, thread_time()
            run(handle)
            if self.own_turns == own_turns:
                self.log.work_processor_s.append(thread_time() - processor_s)
                self.log.work_ended_at.append(monotonic())

        asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]

    def sample(self) -> None:
        """Note the sizes of what waits, every now and then."""
        self.own_turns += 1
        if self._metering is not None:
            stats = self._metering.stats()
            self.log.waiting_calls_max = max(self.log.waiting_calls_max, stats.waiting_calls)
            self.log.spool_bytes_max = max(self.log.spool_bytes_max, stats.spool_bytes)
        asyncio.get_running_loop().call_later(_SAMPLE_S, self.sample)


async def _tell_safe(gateway: Gateway, metering: MeteringClient) -> None:
    told = -1
    while True:
        last = gateway.last
        if last > told and await metering.flush():
            if told < 0:
                print(f"first {gateway.first}", flush=True)
            print(f"safe {last}", flush=True)
            told = last
        await asyncio.sleep(_SAFE_S)


async def _deliver(metering: MeteringClient) -> None:
    while metering.stats().waiting_calls or metering.stats().spool_calls:
        await asyncio.sleep(_SAMPLE_S)


async def _run(plan: GatewayPlan, stack: AsyncExitStack) -> GatewayLog:
    metering = None
    if plan.target:
        config = ClientConfig(spool_dir=Path(plan.spool_dir), durability=Durability(plan.durability))
        metering = await stack.enter_async_context(MeteringClient(plan.target, config=config))
    gateway = Gateway(metering)
    gateway.watch_the_loop()
    gateway.sample()
    gateway.log.memory_before_bytes = _memory_max_bytes()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: gateway, "127.0.0.1", plan.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    telling = asyncio.create_task(_tell_safe(gateway, metering)) if metering and plan.tell_safe else None
    await stop.wait()
    server.close()
    await gateway.idle.wait()
    if telling:
        telling.cancel()
    if metering:
        gateway.log.delivered_s = await _time(lambda: _deliver(metering), plan.deliver_within_s)
        gateway.log.counts = _counts(metering.stats())
    gateway.log.memory_max_bytes = _memory_max_bytes()
    return gateway.log


async def _time(do: Callable[[], Awaitable[None]], within_s: float) -> float:
    began_at = monotonic()
    async with asyncio.timeout(within_s):
        await do()
    return monotonic() - began_at


def _counts(stats: ClientStats) -> dict[str, int]:
    return {
        "delivered": stats.delivered_calls,
        "duplicates": stats.duplicate_calls,
        "spooled": stats.spooled_calls,
        "rejected": stats.rejected_calls.total(),
        "dropped": stats.dropped_calls.total(),
        "failed batches": stats.failed_batches.total(),
        "spool errors": stats.spool_errors,
    }


def _memory_max_bytes() -> int:
    """Return the most memory that this process has had so far."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def _main(plan: GatewayPlan) -> None:
    async with AsyncExitStack() as stack:
        log = await _run(plan, stack)
    Path(plan.log).write_bytes(pickle.dumps(log))


if __name__ == "__main__":
    asyncio.run(_main(question(GatewayPlan)))
