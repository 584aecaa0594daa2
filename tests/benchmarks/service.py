"""The real service, on a fresh PostgreSQL."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import asyncpg

from metering import embedded_postgres
from tests.benchmarks.books import Books
from tests.benchmarks.processes import BenchmarkError, python, running

START_SECONDS_MAX = 120
FOLD_SECONDS_MAX = 60
_METRICS_SECONDS_MAX = 10
_OUTPUT_BYTES_MAX = 64 * 1024
_SERVING = re.compile(r"grpc://(?P<host>[^\s:]+):(?P<port>\d+).*(?P<metrics_url>http://\S+/metrics)", re.DOTALL)


@dataclass(frozen=True)
class Server:
    """Whom load goes to."""

    host: str
    port: int
    processes: tuple[int, ...]


@dataclass(frozen=True)
class Commits:
    """Commits of calls."""

    number: float
    calls: float
    seconds: float

    def __sub__(self, earlier: Self) -> "Commits":
        """Return those since."""
        return Commits(self.number - earlier.number, self.calls - earlier.calls, self.seconds - earlier.seconds)


@dataclass(frozen=True)
class Service(Server):
    """A running service."""

    metrics_url: str
    database_url: str
    books: Books = field(default_factory=Books)

    @property
    def target(self) -> str:
        """For a gRPC channel."""
        return f"{self.host}:{self.port}"

    def commits(self) -> Commits:
        """Return the commits of calls so far."""
        with urllib.request.urlopen(self.metrics_url, timeout=_METRICS_SECONDS_MAX) as response:
            metrics = response.read().decode()
        names = ("batch_items_count", "batch_items_sum", "commit_seconds_sum")
        found = (re.search(rf'^metering_{name}{{queue="calls"}} (\S+)$', metrics, re.MULTILINE) for name in names)
        return Commits(*(float(each[1]) if each else 0.0 for each in found))


@contextmanager
def fresh_postgres(parent: Path) -> Iterator[str]:
    """Run an embedded PostgreSQL, with the settings of the service's own, in a new directory; give its URL."""
    parent.mkdir(parents=True, exist_ok=True)
    data_dir = Path(tempfile.mkdtemp(prefix="data-", dir=parent))
    data_dir.chmod(0o711)  # PostgreSQL may be another user, who has to pass
    try:
        with embedded_postgres.start(data_dir) as postgres:
            yield postgres.url
    finally:
        shutil.rmtree(data_dir)


def another_database(database_url: str, name: str) -> str:
    """Make a database beside one, in the same PostgreSQL; return its URL."""

    async def create() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()

    asyncio.run(create())
    return urlsplit(database_url)._replace(path=f"/{name}").geturl()


@contextmanager
def running_service(
    database_url: str, time_zone: str, workers: int, *, shift_seconds: float = 0.0, interpreter: str = sys.executable
) -> Iterator[Service]:
    """Run the service as its user would; with `shift_seconds`, its clock goes ahead by so much."""
    module = ("tests.benchmarks.shifted_service", str(shift_seconds)) if shift_seconds else ("metering",)
    command = python(
        *(*module, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
        *("--workers", str(workers), "--database-url", database_url, "--billing-timezone", time_zone),
        interpreter=interpreter,
    )
    with (
        tempfile.TemporaryFile() as output,
        running(command, stdout=output, stderr=output) as process,
    ):
        # Not by read: its place in the file is the service's, too.
        said = _wait_until_serving(
            process, lambda: os.pread(output.fileno(), _OUTPUT_BYTES_MAX, 0).decode(errors="replace")
        )
        yield Service(said["host"], int(said["port"]), (process.pid,), said["metrics_url"], database_url)


@contextmanager
def running_server(module: str, *arguments: str, interpreter: str = sys.executable) -> Iterator[Server]:
    """Run one of the servers written for the benchmark, which tells its port."""
    command = python(module, *arguments, interpreter=interpreter)
    with running(command, stdout=subprocess.PIPE, stderr=None) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{module} does not start")
        yield Server("127.0.0.1", int(line), (process.pid,))


@contextmanager
def running_echo(workers: int) -> Iterator[Server]:
    """Run echo servers on one port."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running_server("tests.benchmarks.echo", "0"))]
        while len(servers) < workers:
            servers.append(stack.enter_context(running_server("tests.benchmarks.echo", str(servers[0].port))))
        yield Server(servers[0].host, servers[0].port, tuple(each.processes[0] for each in servers))


async def settle(database_url: str) -> None:
    """Wait until what earlier load has left behind is done, so that it does not burden what is measured next.

    Counts are folded, and all pages written: each measurement starts right after a checkpoint. It is then the one that
    pays for writing each page in full the first time, and no checkpoint falls into one measurement but not the next.
    """
    connection = await asyncpg.connect(database_url)
    try:
        end = time.monotonic() + FOLD_SECONDS_MAX
        while await connection.fetchval("SELECT EXISTS (SELECT FROM usage_deltas)"):
            if time.monotonic() > end:
                raise BenchmarkError(f"the service has not folded its usage_deltas within {FOLD_SECONDS_MAX} s")
            await asyncio.sleep(0.1)
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _wait_until_serving(process: subprocess.Popen[bytes], output: Callable[[], str]) -> re.Match[str]:
    """Return what the service says about where it serves."""
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end:
        if match := _SERVING.search(output()):
            return match
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            break
    raise BenchmarkError(f"the service does not start. It says:\n{output()}")
