"""Gateways that are killed with SIGKILL, their calls on disk first: the next one delivers what they have left."""

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from faceid_metering import Durability
from metering.store.schema import migrate
from tests.benchmarks.books import activate
from tests.benchmarks.gateway_simulation.gateway import GatewayPlan
from tests.benchmarks.gateway_simulation.load import LoadPlan
from tests.benchmarks.gateway_simulation.requests import ACCOUNTS
from tests.benchmarks.gateway_simulation.simulation import check_books, ended, running, said
from tests.support.processes import ServiceProcess


@dataclass(frozen=True)
class Killed:
    """What came of it, with every call that was safe on the books exactly once."""

    gateways: int
    safe: int
    """Calls after which flush() had returned before the end of their gateway."""
    booked: int

    def told(self) -> str:
        """Return it in words."""
        return (
            f"{self.gateways} gateways killed, disk first: {self.safe:,} calls were flushed, {self.booked:,} are on "
            f"the books, each exactly once, every flushed one among them"
        )


async def kill_gateways(database_url: str, directory: Path, *, kills: int, rate: float, life_s: float = 3.0) -> Killed:
    """Kill one gateway after the other under load, every second one while the service is down.

    Raises:
        BenchmarkError: The books are wrong.
    """
    await migrate(database_url)
    await asyncio.to_thread(activate, database_url, ACCOUNTS)
    directory.mkdir(parents=True)
    safe: set[int] = set()
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(ServiceProcess(database_url))
        plan = GatewayPlan(0, str(directory / "log"), service.target, str(directory / "spool"), Durability.DISK, True)
        async with running("gateway", plan) as gateway:
            plan = replace(plan, port=int(await said(gateway)))
            load = await stack.enter_async_context(running("load", LoadPlan((plan.port,), rate)))
            safe |= await _live_and_die(gateway, life_s)
        for number in range(1, kills):
            if number % 2:
                await service.kill()
            async with running("gateway", plan) as gateway:
                await said(gateway)
                safe |= await _live_and_die(gateway, life_s)
            if number % 2:
                service = await stack.enter_async_context(ServiceProcess(database_url, "--listen", plan.target))
        async with running("gateway", plan) as gateway:  # the last one ends as it should, and leaves nothing
            await said(gateway)
            reading = asyncio.create_task(_safe_calls(gateway))
            await asyncio.sleep(life_s)
            load.terminate()
            requests = int(await said(load))
            await ended(gateway)
            safe |= await reading
    booked = await check_books(database_url, least=safe, most=requests)
    return Killed(kills, len(safe), booked)


async def _live_and_die(gateway: asyncio.subprocess.Process, life_s: float) -> set[int]:
    """Kill a gateway after a while; returns the calls that it had flushed."""
    reading = asyncio.create_task(_safe_calls(gateway))
    await asyncio.sleep(life_s)
    with contextlib.suppress(ProcessLookupError):
        gateway.kill()
    return await reading


async def _safe_calls(gateway: asyncio.subprocess.Process) -> set[int]:
    """Return what a gateway says, until it ends, is safe: requests come in order, so all from the first one on."""
    first, last = 0, -1
    assert gateway.stdout is not None
    while (line := await gateway.stdout.readline()).endswith(b"\n"):
        what, _, number = line.decode().strip().partition(" ")
        if what == "first":
            first = int(number)
        else:
            last = int(number)
    return set(range(first, last + 1))
