"""The spool as the event loop sees it: everything that touches the disk runs on a thread of its own."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from faceid_metering.config import ClientConfig, SpoolFull
from faceid_metering.outbox import report_drop
from faceid_metering.runtime import Runtime
from faceid_metering.spool import Batch, SpoolFile
from faceid_metering.stats import ClientStats

T = TypeVar("T")

log = logging.getLogger(__name__)


class Spool:
    """What cannot be delivered now. Without a directory, it takes nothing and has nothing."""

    def __init__(self, config: ClientConfig, runtime: Runtime, stats: ClientStats) -> None:
        """Open nothing yet."""
        self._config = config
        self._stats = stats
        self._time_s = runtime.time_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metering spool")
        self._file: SpoolFile | None = None
        self._broken = False
        self._taking = asyncio.Lock()
        self._after_id = 0
        self._out = 0
        self._filled = asyncio.Event()

    @property
    def exists(self) -> bool:
        """Whether there is a directory for it."""
        return self._config.spool_dir is not None

    async def put(self, batch: Batch) -> bool:
        """Store a batch; returns whether it is on disk now."""
        stored = await self._do(lambda file: self._put(file, batch))
        if stored:
            self._stats.spooled_calls += batch.calls
            self._filled.set()
        return bool(stored)

    async def take(self) -> Batch:
        """Return a batch to be delivered, once there is one; give it back by `delivered` or `failed`."""
        while True:
            await self._filled.wait()
            async with self._taking:
                batch = await self._do(lambda file: file.next_batch(self._after_id, self._config.batch_calls))
                if batch is not None:
                    self._after_id = batch.chunk_ids[-1]
                    self._out += 1
                    return batch
                # At the end. What failed on the way is ahead again, once nothing is under way any more.
                if self._out or not self._after_id or not self._stats.spool_calls:
                    self._filled.clear()
                self._after_id = self._after_id if self._out else 0

    async def delivered(self, batch: Batch) -> None:
        """Remove a batch."""
        await self._do(lambda file: file.delete(batch))
        self.failed()

    def failed(self) -> None:
        """Have a batch that was taken, and not removed, taken again."""
        self._out -= 1
        if self._stats.spool_calls:
            self._filled.set()

    async def adopt(self) -> bool:
        """Take over some calls that a client which is gone has left; returns whether there were any."""
        calls = await self._do(lambda file: file.adopt())
        if calls:
            self._stats.adopted_calls += calls
            self._filled.set()
        return bool(calls)

    async def close(self) -> None:
        """Close it; what is in it is delivered by the next client that uses the directory."""
        if self._file is not None:
            await self._do(self._close)
        self._thread.shutdown(wait=False)

    def _close(self, file: SpoolFile) -> None:
        self._file = None
        file.close()

    def _put(self, file: SpoolFile, batch: Batch) -> bool:
        if file.put([batch]):
            return True
        if self._config.spool_full is not SpoolFull.DROP_OLDEST:
            return False
        dropped = file.drop_oldest(batch)
        if dropped:
            report_drop(self._config, self._stats, dropped, "oldest")
        return file.put([batch])

    async def _do(self, job: Callable[[SpoolFile], T]) -> T | None:
        """Do something with the file, on its thread; None: the disk fails, which is said once and counted."""
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._thread, self._on_thread, job)
        except (sqlite3.Error, OSError) as error:
            self._stats.spool_errors += 1
            if not self._broken:
                log.error("the spool in %s fails, calls wait in memory: %s", self._config.spool_dir, error)  # noqa: TRY400
            self._broken = True
            return None
        self._broken = False
        return done

    def _on_thread(self, job: Callable[[SpoolFile], T]) -> T | None:
        if self._config.spool_dir is None:
            return None
        if self._file is None:
            self._file = SpoolFile(self._config.spool_dir, self._config.spool_bytes, fsync=self._config.spool_fsync)
        file = self._file
        try:
            return job(file)
        finally:
            if self._file is file:  # it isn't closed
                self._stats.spool_calls, self._stats.spool_bytes = file.calls, file.bytes_used()

    async def measure_age(self) -> None:
        """Note how old the oldest call is."""
        oldest = await self._do(lambda file: file.oldest())
        self._stats.spool_oldest_s = 0.0 if oldest is None else max(self._time_s() - oldest, 0.0)
