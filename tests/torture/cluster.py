"""What is tortured: replicas on one PostgreSQL, with proxies in between, each kept up by somebody who only restarts."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from metering import embedded_postgres
from metering.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from metering.store.schema import migrate
from tests.conftest import execute
from tests.support.postgres import is_down
from tests.support.processes import ServiceProcess
from tests.support.proxy import TcpProxy
from tests.torture.clock import SharedClock

DISK_MB = 1024
UP_S_MAX = 180.0
RESTART_S = 0.3
"""How soon whoever runs a process starts it again: the `RestartSec` of a unit, so to speak."""
POSTGRES_SETTINGS = ("max_wal_size = '256MB'", "min_wal_size = '64MB'", "checkpoint_timeout = '30s'")
"""So that checkpoints, and crash recovery, are part of a short torture, and its disk is a small one."""


class Postgres:
    """The database, on a disk of its own, started again whenever it is down."""

    def __init__(self, data_dir: Path, *, small_disk: bool) -> None:
        self.data_dir = data_dir
        self.small_disk = small_disk
        self.stays_down_s = 0.0
        """For how long it is left down the next time."""
        self.url = ""
        self._running: EmbeddedPostgres | None = None
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it for the first time."""
        self._running = await asyncio.to_thread(embedded_postgres.start, self.data_dir)
        self.url = self._running.url
        await execute(self._running.url, *(f"ALTER SYSTEM SET {each}" for each in POSTGRES_SETTINGS))
        await execute(self._running.url, "SELECT pg_reload_conf()")
        await migrate(self._running.url)
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Start it again whenever it is down."""
        while not self._stopping:
            await asyncio.sleep(0.1)
            if not await asyncio.to_thread(is_down, self.data_dir):
                continue
            await asyncio.sleep(self.stays_down_s)
            self.stays_down_s = 0.0
            if self._running is not None:
                await asyncio.to_thread(self._running.stop)
                self._running = None
            with contextlib.suppress(EmbeddedPostgresError):  # the disk is full, and it is tried again
                self._running = await asyncio.to_thread(embedded_postgres.start, self.data_dir)

    async def stop(self) -> None:
        """Stop it for good."""
        self._stopping = True
        if self._keeper is not None:
            await self._keeper
        if self._running is not None:
            await asyncio.to_thread(self._running.stop)


class Replica:
    """A service behind a proxy, and its way to the database through another one."""

    def __init__(self, number: int, workers: int, database: TcpProxy, clock: Path, defect: str, log: Path) -> None:
        self.name = f"replica-{number}"
        self.workers = workers
        self.place = number + 1
        """In the shared clock."""
        self.database = database
        self.clients = TcpProxy("")
        self.process: ServiceProcess | None = None
        """None while it is down."""
        self._program = ("tests.torture.server", str(clock), str(self.place), defect)
        self._log = log
        self._address = "127.0.0.1:0"

    async def keep(self) -> None:
        """Run it, and start it again whenever it ends, until cancelled."""
        while True:
            service = ServiceProcess(
                self.database.url,
                *("--listen", self._address, "--workers", str(self.workers), "--shutdown-grace-s", "2"),
                program=self._program,
            )
            # A start that fails, as with a database that is away for too long, is another reason to start again.
            try:
                async with service:
                    self._address = self.clients.connect_to = service.target
                    self.process = service
                    await service.process.wait()
            except (AssertionError, TimeoutError):
                pass
            finally:
                self.process = None
                with self._log.open("a") as log:
                    log.writelines(service.output)
            await asyncio.sleep(RESTART_S)


class ClientProcess:
    """A client in a process of its own, started again with the same spool when it was killed."""

    def __init__(self, number: int, module: str, directory: Path, seed: int, arguments: list[str]) -> None:
        self.name = f"{module}-{number}"
        self._module = f"tests.torture.{module}"
        self._directory = directory
        self._seed = seed
        self._arguments = arguments
        self._lives = 0
        self._stopping = False
        self.process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Run it until it was told to finish and has done so."""
        while True:
            self._lives += 1
            journal = self._directory / f"{self.name}.{self._lives}.jsonl"
            with (self._directory / f"{self.name}.log").open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", self._module, str(journal), str(self._seed + self._lives)),
                    *self._arguments,
                    stdin=asyncio.subprocess.PIPE,
                    stderr=log,
                )
            if self._stopping:
                self._close_stdin()
            code = await self.process.wait()
            if self._stopping and code == 0:
                return
            if code not in {0, -signal.SIGKILL}:
                raise ClientDiedError(f"{self.name} ended with {code}; see {self.name}.log")
            await asyncio.sleep(RESTART_S)

    def finish(self) -> None:
        """Have it record no more, and deliver what it has."""
        self._stopping = True
        self._close_stdin()

    def _close_stdin(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        """SIGKILL it, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


class ClientDiedError(Exception):
    """A client ended by itself."""


class Cluster:
    """All of it."""

    def __init__(self, postgres: Postgres, replicas: list[Replica], clock: SharedClock, balloon: Path | None) -> None:
        self.postgres = postgres
        self.replicas = replicas
        self.clients: list[ClientProcess] = []
        self.clock = clock
        self.balloon = balloon
        """A file to fill the database's disk with; None: it has no disk of its own."""

    @property
    def targets(self) -> list[str]:
        """Where the replicas are reached, through their proxies."""
        return [replica.clients.url for replica in self.replicas]

    async def until_up(self) -> None:
        """Return once each replica has been started."""
        while not all(replica.process for replica in self.replicas):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_cluster(directory: Path, workers: list[int], defect: str, now: float) -> AsyncIterator[Cluster]:
    """Run replicas with so many workers each; all that is kept of it goes to `directory`."""
    clock_file = directory / "clock"
    SharedClock.make(clock_file)
    clock = SharedClock(clock_file, 0)
    clock.set_ahead(0, now)
    async with AsyncExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metering-torture-")))
        small_disk = stack.enter_context(disk_of_its_own(data_dir))
        postgres = Postgres(data_dir, small_disk=small_disk)
        stack.callback(_keep_log, data_dir, directory)
        stack.push_async_callback(postgres.stop)
        await postgres.start()
        replicas = []
        for number, each in enumerate(workers):
            database = await stack.enter_async_context(TcpProxy.to_postgres(postgres.url))
            log = directory / f"replica-{number}.log"
            replica = Replica(number, each, database, clock_file, defect, log)
            await stack.enter_async_context(replica.clients)
            replicas.append(replica)
        keepers = [asyncio.create_task(each.keep()) for each in replicas]
        try:
            cluster = Cluster(postgres, replicas, clock, data_dir / "balloon" if small_disk else None)
            async with asyncio.timeout(UP_S_MAX):
                await cluster.until_up()
            yield cluster
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)


def _keep_log(data_dir: Path, directory: Path) -> None:
    log = data_dir / "postgres.log"
    if log.exists():
        shutil.copy(log, directory)


@contextmanager
def disk_of_its_own(directory: Path) -> Iterator[bool]:
    """Mount a small file system on a directory; False: that is not allowed here."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "metering-torture", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
