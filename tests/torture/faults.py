"""What the nemesis does. Each fault comes and goes within some seconds, and says what it does to whom.

Chance is drawn before a fault begins, so that a seed has the same faults at the same times whatever they come upon.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from tests.support.postgres import kill_server
from tests.support.processes import ServiceProcess
from tests.support.proxy import TcpProxy
from tests.torture.cluster import Cluster, Replica

SKEW_S = 20.0
SHORT_S = (0.05, 4.0)
"""How long a fault lasts that passes by itself."""


@dataclass(frozen=True)
class Fault:
    """One fault, ready to happen."""

    what: str
    happen: Callable[[], Awaitable[None]]


Maker = Callable[[Cluster, random.Random], Fault]


def _replica(cluster: Cluster, rng: random.Random) -> Replica:
    return rng.choice(cluster.replicas)


def _duration_s(rng: random.Random) -> float:
    return rng.uniform(SHORT_S[0], rng.choice((1.0, SHORT_S[1])))


# Processes


def kill_server_process(cluster: Cluster, rng: random.Random) -> Fault:
    """SIGKILL to a service; with several workers, to their supervisor."""
    replica = _replica(cluster, rng)

    async def happen() -> None:
        if replica.process:
            replica.process.process.kill()

    return Fault(f"kill {replica.name}", happen)


def stop_server_process(cluster: Cluster, rng: random.Random) -> Fault:
    """SIGTERM to a service."""
    replica = _replica(cluster, rng)

    async def happen() -> None:
        if replica.process:
            replica.process.process.terminate()

    return Fault(f"terminate {replica.name}", happen)


def kill_worker(cluster: Cluster, rng: random.Random) -> Fault:
    """SIGKILL to one of several workers."""
    replica = rng.choice([replica for replica in cluster.replicas if replica.workers > 1])
    number = rng.randrange(replica.workers)

    async def happen() -> None:
        for pid in (await _worker_pids(replica.process))[number : number + 1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return Fault(f"kill worker {number} of {replica.name}", happen)


def freeze(cluster: Cluster, rng: random.Random) -> Fault:
    """SIGSTOP to a service or a worker, and SIGCONT."""
    replica, seconds = _replica(cluster, rng), _duration_s(rng)
    number = rng.randrange(replica.workers)

    async def happen() -> None:
        if replica.process is None:
            return
        workers = await _worker_pids(replica.process)
        pid = workers[number % len(workers)] if workers else replica.process.process.pid
        await _freeze(pid, seconds)

    return Fault(f"freeze worker {number} of {replica.name} for {seconds:.2f} s", happen)


def kill_client(cluster: Cluster, rng: random.Random) -> Fault:
    """SIGKILL to a client."""
    client = rng.choice(cluster.clients)

    async def happen() -> None:
        client.end()

    return Fault(f"kill {client.name}", happen)


async def _worker_pids(service: ServiceProcess | None) -> list[int]:
    try:
        return sorted(await service.worker_pids()) if service else []
    except FileNotFoundError:  # it has just ended
        return []


async def _freeze(pid: int, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


# The database


def crash_postgres(cluster: Cluster, rng: random.Random) -> Fault:
    """End PostgreSQL at once, by order or by SIGKILL of its postmaster, and leave it down for a while."""
    how, seconds = rng.choice((signal.SIGQUIT, signal.SIGKILL)), _duration_s(rng)

    async def happen() -> None:
        cluster.postgres.stays_down_s = seconds
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            await asyncio.to_thread(kill_server, cluster.postgres.data_dir, how)

    return Fault(f"{how.name} to PostgreSQL, down for {seconds:.2f} s", happen)


def kill_backend(cluster: Cluster, rng: random.Random) -> Fault:
    """SIGKILL to a process of PostgreSQL that works for us, which then starts anew."""

    async def happen() -> None:
        async with _connected(cluster) as connection:
            if connection is None:
                return
            pid = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'metering%' ORDER BY random() LIMIT 1"
            )
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    return Fault("kill a backend", happen)


def terminate_backends(cluster: Cluster, rng: random.Random) -> Fault:
    """End some sessions."""
    part = rng.uniform(0.1, 1)

    async def happen() -> None:
        async with _connected(cluster) as connection:
            if connection is not None:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    f" WHERE application_name LIKE 'metering%' AND random() < {part}"
                )

    return Fault(f"terminate {part:.0%} of the backends", happen)


def fill_disk(cluster: Cluster, rng: random.Random) -> Fault:
    """Leave no room on the database's disk for a while."""
    seconds, balloon = _duration_s(rng), cluster.balloon
    if balloon is None:
        return Fault("no fault: the database has no disk of its own to fill", _nothing)

    async def happen() -> None:
        try:
            await asyncio.to_thread(_fill)
            await asyncio.sleep(seconds)
        finally:
            balloon.unlink(missing_ok=True)

    def _fill() -> None:
        with contextlib.suppress(OSError), balloon.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65_536))

    return Fault(f"fill the disk for {seconds:.2f} s", happen)


async def _nothing() -> None:
    pass


@asynccontextmanager
async def _connected(cluster: Cluster) -> AsyncIterator["asyncpg.Connection[asyncpg.Record] | None"]:
    """Connect as the owner; None: the database is away, or goes away meanwhile."""
    try:
        connection = await asyncpg.connect(cluster.postgres.url, timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        yield None
        return
    try:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            yield connection
    finally:
        connection.terminate()


# The wire


def _wire(cluster: Cluster, rng: random.Random) -> tuple[TcpProxy, str]:
    replica = _replica(cluster, rng)
    if rng.random() < 0.5:
        return replica.clients, f"clients of {replica.name}"
    return replica.database, f"database of {replica.name}"


def cut(cluster: Cluster, rng: random.Random) -> Fault:
    """Cut all connections."""
    proxy, name = _wire(cluster, rng)

    async def happen() -> None:
        proxy.cut()

    return Fault(f"cut: {name}", happen)


def cut_replies(cluster: Cluster, rng: random.Random) -> Fault:
    """Cut connections in the middle of replies: what was asked is done, and nobody hears of it."""
    proxy, name = _wire(cluster, rng)
    seconds, after_bytes = _duration_s(rng), rng.randint(0, 4_000)

    async def happen() -> None:
        try:
            proxy.cut_replies_after(after_bytes)
            await asyncio.sleep(seconds)
        finally:
            proxy.cut_replies_after(None)

    return Fault(f"cut replies after {after_bytes} bytes for {seconds:.2f} s: {name}", happen)


def refuse(cluster: Cluster, rng: random.Random) -> Fault:
    """Cut all connections and refuse new ones for a while."""
    (proxy, name), seconds = _wire(cluster, rng), _duration_s(rng)

    async def happen() -> None:
        try:
            await proxy.refuse()
            await asyncio.sleep(seconds)
        finally:
            await proxy.accept()

    return Fault(f"refuse connections for {seconds:.2f} s: {name}", happen)


def swallow(cluster: Cluster, rng: random.Random) -> Fault:
    """Forward nothing for a while, without a word; and then, perhaps, nothing of it ever."""
    (proxy, name), seconds, lost = _wire(cluster, rng), _duration_s(rng), rng.random() < 0.5

    async def happen() -> None:
        try:
            proxy.hold()
            await asyncio.sleep(seconds)
        finally:
            if lost:
                proxy.cut()
            proxy.release()

    return Fault(f"swallow everything for {seconds:.2f} s{', for ever' if lost else ''}: {name}", happen)


def delay(cluster: Cluster, rng: random.Random) -> Fault:
    """Forward everything late for a while."""
    (proxy, name), seconds, late_s = _wire(cluster, rng), _duration_s(rng), rng.uniform(0.01, 0.8)

    async def happen() -> None:
        try:
            proxy.delay_s = late_s
            await asyncio.sleep(seconds)
        finally:
            proxy.delay_s = 0.0

    return Fault(f"everything {late_s:.2f} s late for {seconds:.2f} s: {name}", happen)


def half_close(cluster: Cluster, rng: random.Random) -> Fault:
    """Close connections in one direction only."""
    proxy, name = _wire(cluster, rng)

    async def happen() -> None:
        proxy.half_close()

    return Fault(f"half close: {name}", happen)


# Time


def jump(cluster: Cluster, rng: random.Random) -> Fault:
    """Set the clock of a replica forward or back by some seconds, until it is set the next time."""
    replica, seconds = _replica(cluster, rng), rng.uniform(-SKEW_S, SKEW_S)

    async def happen() -> None:
        cluster.clock.set_ahead(replica.place, seconds)

    return Fault(f"the clock of {replica.name} is {seconds:+.1f} s off", happen)


FAULTS: tuple[Maker, ...] = (
    kill_server_process,
    stop_server_process,
    kill_worker,
    freeze,
    kill_client,
    crash_postgres,
    kill_backend,
    terminate_backends,
    fill_disk,
    cut,
    cut_replies,
    refuse,
    swallow,
    delay,
    half_close,
    jump,
)
