"""The real service, on a fresh PostgreSQL."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from metering import embedded_postgres
from tests.benchmarks.processes import BenchmarkError, python, running

START_SECONDS_MAX = 120
FOLD_SECONDS_MAX = 60
_METRICS_SECONDS_MAX = 10
_OUTPUT_BYTES_MAX = 64 * 1024
_SERVING = re.compile(r"grpc://(?P<host>[^\s:]+):(?P<port>\d+).*(?P<metrics_url>http://\S+/metrics)", re.DOTALL)


@dataclass(frozen=True)
class Service:
    """A running service."""

    host: str
    port: int
    process: int
    metrics_url: str
    database_url: str

    @property
    def target(self) -> str:
        """For a gRPC channel."""
        return f"{self.host}:{self.port}"

    def commits(self) -> tuple[float, float]:
        """Return how many commits of calls there were so far, and how many calls were in them."""
        with urllib.request.urlopen(self.metrics_url, timeout=_METRICS_SECONDS_MAX) as response:
            metrics = response.read().decode()
        count, calls = (
            re.search(rf'^metering_batch_items_{name}{{queue="calls"}} (\S+)$', metrics, re.MULTILINE)
            for name in ("count", "sum")
        )
        return float(count[1]) if count else 0.0, float(calls[1]) if calls else 0.0


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


@contextmanager
def running_service(database_url: str, time_zone: str, workers: int) -> Iterator[Service]:
    """Run the service as its user would."""
    command = python(
        *("metering", "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
        *("--workers", str(workers), "--database-url", database_url, "--billing-timezone", time_zone),
    )
    with (
        tempfile.TemporaryFile() as output,
        running(command, stdout=output, stderr=output) as process,
    ):
        # Not by read: its place in the file is the service's, too.
        said = _wait_until_serving(
            process, lambda: os.pread(output.fileno(), _OUTPUT_BYTES_MAX, 0).decode(errors="replace")
        )
        yield Service(said["host"], int(said["port"]), process.pid, said["metrics_url"], database_url)


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
