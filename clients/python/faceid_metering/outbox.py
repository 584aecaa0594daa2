"""Recorded calls in memory, until they are taken to be sent or spooled."""

import logging
from collections import deque
from collections.abc import Callable
from math import inf
from threading import Lock

from faceid_metering.config import ClientConfig, Durability
from faceid_metering.spool import Batch
from faceid_metering.stats import ClientStats

log = logging.getLogger(__name__)


class Outbox:
    """Where `record` puts calls, from any thread. All else is for the event loop's thread."""

    def __init__(
        self,
        config: ClientConfig,
        sender_id: str,
        stats: ClientStats,
        wake_memory: Callable[[], None],
        wake_disk: Callable[[], None],
    ) -> None:
        """Begin empty; what wakes is called from any thread, for each queue on its own: see `await_memory`."""
        self._config = config
        self._sender_id = sender_id
        self._stats = stats
        self._wake_memory, self._wake_disk = wake_memory, wake_disk
        self._memory_awaited: float = 1
        self._disk_awaited = True
        self._lock = Lock()
        self._skipped = 0
        self._calls_max = config.queue_calls
        self.memory: deque[bytes] = deque()
        self.disk: deque[bytes] = deque()
        self.returned: deque[Batch] = deque()
        """Batches that could neither be delivered nor spooled."""
        self.held_calls = 0
        """The calls in these, and in batches on their way."""
        self.numbered = 0
        self.closed = False

    def put(self, call: bytes, durability: Durability | str | None) -> None:
        """Take a call, or drop and count it: never waits, and fails only if disk is asked for where there is none."""
        in_memory = len(self.memory)
        if self.closed or in_memory + len(self.disk) + self.held_calls >= self._calls_max:
            self._drop()
        elif (durability or self._config.durability) == Durability.DISK:
            if self._config.spool_dir is None:
                raise ValueError("durability is disk, and the client has no spool_dir: set it in ClientConfig")
            self.disk.append(call)
            if self._disk_awaited:
                self._disk_awaited = False
                self._wake_disk()
        else:
            self.memory.append(call)
            if in_memory + 1 >= self._memory_awaited:
                self._memory_awaited = inf
                self._wake_memory()

    def await_memory(self, calls: int) -> None:
        """Ask to be woken, once, when so many calls wait; look at the queue afterwards, or one may be missed.

        To wake costs more than to record, so nobody should ask to be woken for less than is worth it.
        """
        self._memory_awaited = calls

    def await_disk(self) -> None:
        """Ask the same for the first call that shall be on disk."""
        self._disk_awaited = True

    @property
    def waiting_calls(self) -> int:
        """How many calls are not numbered yet."""
        return len(self.memory) + len(self.disk)

    @property
    def numbers(self) -> int:
        """How many calls were taken so far; each one has a number, or is going to get one."""
        return self.numbered + self._skipped + self.waiting_calls

    def take(self, queue: deque[bytes], calls_max: int) -> Batch | None:
        """Number the oldest calls of a queue and make a batch of them."""
        with self._lock:  # the numbers of dropped calls show as missing for ever
            self.numbered, self._skipped = self.numbered + self._skipped, 0
        calls = [queue.popleft() for _ in range(min(len(queue), calls_max))]
        if not calls:
            return None
        batch = Batch(self._sender_id, self.numbered + 1, len(calls), b"".join(calls))
        self.numbered += len(calls)
        self.held_calls += len(calls)
        return batch

    def release(self, batch: Batch) -> None:
        """Forget a batch that is delivered or spooled."""
        self.held_calls -= batch.calls

    def _drop(self) -> None:
        why = "closed" if self.closed else "full"
        with self._lock:
            self._skipped += 1
        report_drop(self._config, self._stats, 1, why)


def report_drop(config: ClientConfig, stats: ClientStats, calls: int, why: str) -> None:
    """Count calls that are lost, and tell the user of the client, whose mistakes must not become ours."""
    stats.dropped(why, calls)
    try:
        config.on_dropped(calls, why)
    except Exception:
        log.exception("on_dropped failed")
