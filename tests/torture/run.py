"""One torture: clients, office and nemesis at the same time, and then the check."""

import asyncio
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from faceid.metering.v1 import resources_pb2 as pb
from tests.support.audit import run_audit
from tests.support.service import Stubs
from tests.torture.books import Books, read_books
from tests.torture.checker import check
from tests.torture.cluster import ClientDiedError, ClientProcess, Cluster, running_cluster
from tests.torture.journal import History, Journal, SentCall
from tests.torture.nemesis import Nemesis
from tests.torture.office import Office, fixed_part, start_time
from tests.torture.raw_client import CHANNEL_OPTIONS
from tests.torture.traffic import Traffic, record_of

WORKERS = (1, 2, 1)
"""Of each replica."""
RAW_CLIENTS, SHIPPED_CLIENTS = 2, 2
HEALTHY_S_MAX = 10.0
FINISH_S_MAX = 90.0
"""For delivering what is left. No promise, but nothing should take so long."""


@dataclass(frozen=True)
class Torture:
    """What is to be done."""

    seed: int
    seconds: float
    directory: Path
    """Where the histories go."""
    defect: str = "none"
    healthy_s_max: float = HEALTHY_S_MAX


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    problems: list[str]
    sent: int
    booked: int
    months_closed: int
    faults: dict[str, int]
    healthy_s: float
    """How long after the last fault every replica was ready and had recorded a call."""


async def run(torture: Torture) -> Outcome:
    """Torture a service of its own, and check what it has on its books then."""
    shutil.rmtree(torture.directory, ignore_errors=True)
    torture.directory.mkdir(parents=True)
    rng = random.Random(torture.seed)
    now = datetime.now(UTC)
    ahead_s = (start_time(now) - now).total_seconds()
    async with running_cluster(torture.directory, list(WORKERS), torture.defect, ahead_s) as cluster:
        replicas = [Stubs(grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)) for target in cluster.targets]
        office = Office(Journal(torture.directory / "office.jsonl"), rng, cluster.clock, replicas)
        nemesis = Nemesis(cluster, torture.seed, torture.directory / "faults.log")
        await office.open()
        cluster.clients = _clients(torture, cluster)
        clients = [asyncio.create_task(client.keep()) for client in cluster.clients]
        try:
            striking = asyncio.create_task(nemesis.run(torture.seconds))
            billing = asyncio.create_task(office.run(striking.done))
            await _unless_a_client_dies(clients, striking)
            nemesis.tell("that was the last fault")
            probes = Journal(torture.directory / "probes.jsonl")
            healthy_s = await _until_healthy(cluster, replicas, probes, torture.healthy_s_max)
            nemesis.tell(f"healthy after {healthy_s:.1f} s")
            for client in cluster.clients:
                client.finish()
            async with asyncio.timeout(FINISH_S_MAX):
                await asyncio.gather(billing, *clients)
            books = await _read(cluster, replicas)
        finally:
            for client in cluster.clients:
                client.end()
            for task in clients:
                task.cancel()
        history = History.of(sorted(torture.directory.glob("*.jsonl")))
        return Outcome(
            problems=[*_slow(healthy_s, torture), *check(history, books)],
            sent=len(history.sent),
            booked=len(books.calls),
            months_closed=len(office.closed),
            faults=nemesis.faults,
            healthy_s=healthy_s,
        )


def _clients(torture: Torture, cluster: Cluster) -> list[ClientProcess]:
    clock, spool = str(torture.directory / "clock"), str(torture.directory / "spool")
    clients = []
    for number in range(RAW_CLIENTS):
        arguments = [clock, *cluster.targets]
        clients.append(ClientProcess(number, "raw_client", torture.directory, torture.seed + 100 * number, arguments))
    for number in range(SHIPPED_CLIENTS):
        arguments = [clock, spool, *cluster.targets]
        clients.append(
            ClientProcess(number, "shipped_client", torture.directory, torture.seed + 1000 * number, arguments)
        )
    return clients


async def _unless_a_client_dies(clients: list["asyncio.Task[None]"], striking: "asyncio.Task[None]") -> None:
    """Wait for the nemesis; a client that ends by itself ends the torture."""
    await asyncio.wait([*clients, striking], return_when=asyncio.FIRST_COMPLETED)
    for task in clients:
        if task.done():
            await task
            raise ClientDiedError("a client ended before it was told to")
    await striking


async def _until_healthy(cluster: Cluster, replicas: list[Stubs], journal: Journal, seconds_max: float) -> float:
    """Return after how many seconds every replica was ready, and had recorded a call."""
    begin = time.monotonic()
    probes = Traffic(random.Random(0), cluster.clock)
    async with asyncio.timeout(6 * seconds_max):
        for replica, stubs in zip(cluster.replicas, replicas, strict=True):
            call = probes.call()
            journal.sent([call])
            while not (replica.process and await _is_ready(replica.process.get) and await _records(stubs, call)):
                await asyncio.sleep(0.05)
    return time.monotonic() - begin


async def _is_ready(get: Callable[[str], Awaitable[tuple[int, str]]]) -> bool:
    try:
        status, _ = await get("/readyz")
    except OSError:
        return False
    return status == 200


async def _records(stubs: Stubs, call: SentCall) -> bool:
    try:
        await stubs.record(record_of(call), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return True


async def _read(cluster: Cluster, replicas: list[Stubs]) -> Books:
    """Read the books, and what the service says of them."""
    books = await read_books(cluster.postgres.url)
    for account_id, month in books.bills:
        books.fixed_parts[account_id, month] = fixed_part(await replicas[0].bill(account_id, month))
    for replica, stubs in zip(cluster.replicas, replicas, strict=True):
        states = {account_id: (await stubs.status(account_id)).state for account_id in books.states}
        books.told[replica.name] = {
            account_id: pb.ServiceState.Name(state).removeprefix("SERVICE_STATE_")
            for account_id, state in states.items()
        }
    audit = await run_audit(cluster.postgres.url, clock=cluster.clock)
    books.audit = [
        f"{each.kind}: {each.account_id}, found {each.found}, expected {each.expected}" for each in audit.differences
    ]
    return books


def _slow(healthy_s: float, torture: Torture) -> list[str]:
    if healthy_s <= torture.healthy_s_max:
        return []
    return [f"not healthy again before {healthy_s:.1f} s after the last fault"]
