"""A gateway with a meter and one without, side by side at the same load, while the service has its troubles."""

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import asyncpg

from faceid_metering import Durability
from metering.store.schema import migrate
from tests.benchmarks.books import activate
from tests.benchmarks.gateway_simulation.gateway import GatewayPlan
from tests.benchmarks.gateway_simulation.gateway_log import GatewayLog
from tests.benchmarks.gateway_simulation.load import LoadPlan
from tests.benchmarks.gateway_simulation.measures import Costs, costs
from tests.benchmarks.gateway_simulation.requests import ACCOUNTS, number_of
from tests.benchmarks.gateway_simulation.troubles import Times, Troubles
from tests.benchmarks.processes import BenchmarkError, python
from tests.support.audit import run_audit

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PACKAGE = "tests.benchmarks.gateway_simulation"
_SAMPLE_S = 0.05
_END_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What came of a simulation in which every request is on the books exactly once."""

    requests: int
    metered: GatewayLog
    bare: GatewayLog
    phases: dict[str, tuple[float, float]]
    """When each trouble began, and when the next one did."""
    disk_max_bytes: int
    """All files in the spool's directory together."""

    def costs(self, phase: str | None = None) -> Costs:
        """Return what the meter cost during a trouble, or all the time."""
        since, until = self.phases[phase] if phase else (0.0, float("inf"))
        return costs(self.metered, self.bare, since, until)

    @property
    def memory_bytes(self) -> int:
        """How much more memory the gateway with the meter took under load, than the other one."""
        grown = [log.memory_max_bytes - log.memory_before_bytes for log in (self.metered, self.bare)]
        return grown[0] - grown[1]


async def simulate(
    database_url: str, directory: Path, durability: Durability, *, rate: float = 5_000.0, times: Times
) -> Outcome:
    """Simulate it on a database of its own.

    Raises:
        BenchmarkError: The books are wrong.
    """
    await migrate(database_url)
    await asyncio.to_thread(activate, database_url, ACCOUNTS)
    spool_dir = directory / "spool"
    logs = directory / "metered.log", directory / "bare.log"
    async with Troubles(database_url, times) as troubles, AsyncExitStack() as stack:
        metered_plan = GatewayPlan(0, str(logs[0]), troubles.target, str(spool_dir), durability)
        metered = await stack.enter_async_context(running("gateway", metered_plan))
        bare = await stack.enter_async_context(running("gateway", GatewayPlan(0, str(logs[1]))))
        load_plan = LoadPlan((int(await said(metered)), int(await said(bare))), rate)
        load = await stack.enter_async_context(running("load", load_plan))
        disk = Disk(spool_dir)
        watching = asyncio.create_task(disk.watch())
        phases: dict[str, tuple[float, float]] = {}
        for name, trouble in troubles.all().items():
            began_at = monotonic()
            await trouble()
            phases[name] = began_at, monotonic()
        load.terminate()
        requests = int(await said(load))
        await asyncio.gather(*(ended(gateway) for gateway in (metered, bare)))
        watching.cancel()
    metered_log, bare_log = (pickle.loads(log.read_bytes()) for log in logs)
    outcome = Outcome(requests, metered_log, bare_log, phases, disk.bytes_max)
    if not len(outcome.metered.sent_at) == len(outcome.bare.sent_at) == requests:
        raise BenchmarkError("the gateways did not get all requests")
    await check_books(database_url, least=set(range(requests)), most=requests)
    return outcome


async def check_books(database_url: str, *, least: set[int], most: int) -> int:
    """Return how many calls are on the books.

    Raises:
        BenchmarkError: One of `least` is missing, or one is there twice, or one that was not made: they are numbered
            below `most`.
    """
    connection = await asyncpg.connect(database_url)
    try:
        booked = [number_of(call_id) for (call_id,) in await connection.fetch("SELECT call_id FROM calls")]
    finally:
        await connection.close()
    once = set(booked)
    if missing := least - once:
        raise BenchmarkError(f"{len(missing)} calls are missing, such as {sorted(missing)[:5]}")
    if len(once) < len(booked) or not all(0 <= number < most for number in once):
        raise BenchmarkError("calls are on the books twice, or were never made")
    if (audit := await run_audit(database_url)).differences:
        raise BenchmarkError(f"the audit finds differences: {audit.differences}")
    return len(booked)


class Disk:
    """How much is in a directory at most."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.bytes_max = 0

    async def watch(self) -> None:
        """Look at it for ever."""
        while True:
            self.bytes_max = max(self.bytes_max, sum(map(_size, self._directory.glob("*"))))
            await asyncio.sleep(_SAMPLE_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed meanwhile
        return 0


@asynccontextmanager
async def running(module: str, plan: "DataclassInstance") -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module of this package; what is left of it at the end is killed."""
    command = python(f"{_PACKAGE}.{module}", json.dumps(asdict(plan)))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process) -> str:
    """Return the next line that a process says."""
    assert process.stdout is not None
    async with asyncio.timeout(_END_S):
        line = await process.stdout.readline()
    if not line:
        raise BenchmarkError("a process of the simulation has ended")
    return line.decode().strip()


async def ended(process: asyncio.subprocess.Process) -> None:
    """End a process with SIGTERM and wait for it."""
    process.terminate()
    async with asyncio.timeout(_END_S):
        code = await process.wait()
    if code:
        raise BenchmarkError(f"a gateway failed with exit code {code}")
