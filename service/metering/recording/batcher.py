"""Group commit: what waits is committed together.

There is no timer that a lone call would have to wait for: it is committed at once. Calls that come in during a commit
are the next batch, so that batches grow by themselves under load. While the event loop is busy, a few milliseconds lie
between the starts of two commits, since many small commits would take the processor that calls need.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from metering.errors import DatabaseUnavailableError, MeteringError, Reason, RowRefusedError, TransactionConflictError

T = TypeVar("T")
R = TypeVar("R")

QUEUE_ITEMS_MIN = 1_000
"""So many may wait however slow the last commits were: they are no more than a moment's burst."""
RECENT_COMMITS = 32
"""How long a commit takes is told from so many."""
SWEEP_INTERVAL_S = 0.05
"""How often it is looked for waiters whose time is up."""
SPACED_FROM_BUSY, SPACED_FULLY_BUSY = 0.5, 0.9
"""While the event loop is busy for less than the first share of its time, commits keep no distance; from the second on
they keep all of it. docs/performance.md has what other rules gave."""
RETRY_AFTER_MIN_S = 0.1
"""Who is refused is told to come back no sooner than this."""
BACK_OFF_S = (0.05, 1.0)
"""Shortest and longest pause before the next try while the database is away."""

log = logging.getLogger(__name__)


class BatcherMetrics(Protocol):
    """What the batcher tells of itself."""

    def committed(self, items: int, seconds: float) -> None:
        """A batch was committed."""

    def failed(self) -> None:
        """A commit failed because of the database."""


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """The bounds of a batcher."""

    queue_items_max: int
    """Items that wait or are being committed, at the most, so that memory is bounded; more are refused."""
    batch_items_max: int
    """Items in a batch, at the most, but for a single submission that is larger."""
    committers: int
    """Batches being committed at the same time."""
    spacing_s: float
    """When the event loop is busy, a batch begins no sooner after the one before than this, unless it is full."""
    queue_wait_s: float = 2.0
    """Items that would have to wait longer than this are refused, going by how long the last commits took."""


class _Submission(Generic[T, R]):
    """Items that were submitted together, and who waits for them."""

    __slots__ = ("expires_at", "future", "items", "submitted_at")

    def __init__(
        self,
        items: Sequence[T],
        future: "asyncio.Future[Sequence[R | MeteringError]]",
        submitted_at: float,
        expires_at: float,
    ) -> None:
        self.items = items
        self.future = future
        self.submitted_at = submitted_at
        self.expires_at = expires_at


class Batcher(Generic[T, R]):
    """Commits what is submitted, several submissions at a time, in the order they came in.

    Args:
        commit: commits items and returns a result for each, in their order. All of it or nothing; doing it again after
            an unknown outcome is safe. Raises DatabaseUnavailableError, TransactionConflictError, or RowRefusedError
            if an item cannot be committed, which is then found by halving the batch.
        refuse: called with an item that cannot be committed and the reason; returns the error for who submitted it.
        limits: bounds.
        metrics: is told what happens.
        name: in log messages.
        busy: returns for which share of the last moment the event loop has been busy, 0 to 1.

    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        refuse: Callable[[T, str], Awaitable[MeteringError]],
        limits: BatcherLimits,
        metrics: BatcherMetrics,
        name: str,
        busy: Callable[[], float],
    ) -> None:
        self._commit = commit
        self._refuse = refuse
        self._limits = limits
        self._metrics = metrics
        self._name = name
        self._busy = busy
        self._waiting: deque[_Submission[T, R]] = deque()
        self._waiting_items = 0
        self._committing: list[list[_Submission[T, R]]] = []
        self._committing_items = 0
        self._arrived = asyncio.Event()
        self._recent_s: deque[float] = deque(maxlen=RECENT_COMMITS)
        """How long the last commits took."""
        self._capacity = limits.queue_items_max
        self._last_start = 0.0
        self._last_items = 0
        self._away = False
        self._closing = False
        self._closed = False

    @property
    def waiting_items(self) -> int:
        """Items that wait to be committed."""
        return self._waiting_items

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing is being committed."""
        return not self._waiting and not self._committing

    @property
    def oldest_wait_s(self) -> float:
        """How long the oldest submission has been waiting, or being committed."""
        submissions = [batch[0].submitted_at for batch in self._committing]
        if self._waiting:
            submissions.append(self._waiting[0].submitted_at)
        return asyncio.get_running_loop().time() - min(submissions) if submissions else 0.0

    async def submit(self, items: Sequence[T], wait_s: float) -> Sequence[R | MeteringError]:
        """Return a result for each of `items`, once they are committed; an error for one that cannot be.

        Who is cancelled while waiting leaves the queue; a commit that has begun goes on.

        Args:
            items: at least one.
            wait_s: for how long to wait at the most.

        Raises:
            MeteringError: QUEUE_FULL, SHUTTING_DOWN, or DATABASE_UNAVAILABLE (whether they are committed is not known).

        """
        if self._closed:
            raise _stopped()
        pending = self._waiting_items + self._committing_items
        if pending and pending + len(items) > self._capacity:
            raise self._full(pending)
        loop = asyncio.get_running_loop()
        now = loop.time()
        future: asyncio.Future[Sequence[R | MeteringError]] = loop.create_future()
        self._waiting.append(_Submission(items, future, now, now + wait_s))
        self._waiting_items += len(items)
        self._arrived.set()
        return await future

    def _full(self, pending: int) -> MeteringError:
        # Half of the queue is done by then.
        retry_after_s = max(RETRY_AFTER_MIN_S, self._limits.queue_wait_s * pending / self._capacity / 2)
        msg = f"{pending} calls wait to be recorded, as many as this server accepts; send it again"
        return MeteringError(Reason.QUEUE_FULL, msg, retry_after_s=min(retry_after_s, self._limits.queue_wait_s))

    def _committed(self, items: int, seconds: float) -> None:
        """Take in how long a commit took: as many may wait as are committed in the time that one may wait.

        That is reckoned in full batches, since what waits longest shares a commit with as many as fit: how fast items
        were committed while few came says nothing about how fast many are.
        """
        self._metrics.committed(items, seconds)
        self._recent_s.append(seconds)
        commits = (
            self._limits.committers * self._limits.queue_wait_s * len(self._recent_s) / max(1e-6, sum(self._recent_s))
        )
        waiting_max = int(commits * self._limits.batch_items_max)
        self._capacity = min(self._limits.queue_items_max, max(QUEUE_ITEMS_MIN, waiting_max))

    async def run(self) -> None:
        """Commit until cancelled, or until `drain` was called and nothing waits any more."""
        try:
            await self._run()
        finally:
            self._closed = True
            for submission in self._waiting:
                if not submission.future.done():
                    submission.future.set_exception(_stopped())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            sweeper = tasks.create_task(self._sweep(), name=f"{self._name} sweeper")
            committers = [
                tasks.create_task(self._run_committer(), name=f"{self._name} committer {number}")
                for number in range(self._limits.committers)
            ]
            await asyncio.wait(committers)
            sweeper.cancel()

    def drain(self) -> None:
        """Let `run` end when nothing waits any more."""
        self._closing = True
        self._arrived.set()

    async def _run_committer(self) -> None:
        pause = BACK_OFF_S[0]
        while True:
            while not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            await self._keep_spacing()
            batch = self._take()
            if not batch:
                continue
            try:
                await self._commit_batch(batch)
            except (DatabaseUnavailableError, TransactionConflictError) as error:
                self._tell_away(error)
                self._put_back(batch)
                # Full jitter, so that replicas do not come back all at once.
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - nothing to guess here
                pause = min(2 * pause, BACK_OFF_S[1])
            except BaseException:
                # This ends `run`, which answers all who wait.
                self._put_back(batch)
                raise
            else:
                pause = BACK_OFF_S[0]
                if self._away:
                    self._away = False
                    log.warning("the database is back: %s are committed again", self._name)

    async def _keep_spacing(self) -> None:
        """Leave a few milliseconds between the starts of two commits while the event loop has more to do than that.

        Batches are larger then, and leave the processor to the calls that come in. A lone call never waits.
        """
        if self._last_items <= 1 and self._waiting_items <= 1:
            return
        share = (self._busy() - SPACED_FROM_BUSY) / (SPACED_FULLY_BUSY - SPACED_FROM_BUSY)
        spacing_s = self._limits.spacing_s * min(1.0, max(0.0, share))
        while self._waiting_items < self._limits.batch_items_max:
            rest = self._last_start + spacing_s - asyncio.get_running_loop().time()
            if rest <= 0:
                return
            await asyncio.sleep(rest)

    def _take(self) -> list[_Submission[T, R]]:
        """Take what waits, as much as makes a batch; those whose waiter is gone are left out."""
        batch: list[_Submission[T, R]] = []
        items = 0
        while self._waiting and (not batch or items + len(self._waiting[0].items) <= self._limits.batch_items_max):
            submission = self._waiting.popleft()
            self._waiting_items -= len(submission.items)
            if not submission.future.done():
                batch.append(submission)
                items += len(submission.items)
        if batch:
            self._last_items = items
            self._last_start = asyncio.get_running_loop().time()
        return batch

    def _tell_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            log.error("%s wait for the database; trying again until it is back. %s", self._name, error)
        self._metrics.failed()

    def _put_back(self, batch: list[_Submission[T, R]]) -> None:
        self._waiting.extendleft(reversed(batch))
        self._waiting_items += sum(len(submission.items) for submission in batch)

    async def _commit_batch(self, batch: list[_Submission[T, R]]) -> None:
        items = [item for submission in batch for item in submission.items]
        start = asyncio.get_running_loop().time()
        self._committing.append(batch)
        self._committing_items += len(items)
        try:
            results = await self._commit_or_halve(items)
        finally:
            self._committing.remove(batch)
            self._committing_items -= len(items)
        self._committed(len(items), asyncio.get_running_loop().time() - start)
        end = 0
        for submission in batch:
            begin, end = end, end + len(submission.items)
            if not submission.future.done():
                submission.future.set_result(results[begin:end])

    async def _commit_or_halve(self, items: Sequence[T]) -> Sequence[R | MeteringError]:
        """Commit items; where one of them cannot be, find it by halving, and commit its neighbours."""
        try:
            return await self._commit(items)
        except RowRefusedError as error:
            if len(items) == 1:
                return [await self._refuse(items[0], str(error))]
            middle = len(items) // 2
            first = await self._commit_or_halve(items[:middle])
            return [*first, *await self._commit_or_halve(items[middle:])]

    async def _sweep(self) -> None:
        """Answer those whose time is up, and let those leave the queue who wait no more.

        A call whose commit has begun may be committed all the same: that is why repeating is safe.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = loop.time()
            for batch in (self._waiting, *self._committing):
                for submission in batch:
                    if submission.expires_at <= now and not submission.future.done():
                        msg = "the database did not take the call in time; send it again with the same occurred_at"
                        submission.future.set_exception(DatabaseUnavailableError(msg))
            if any(submission.future.done() for submission in self._waiting):
                self._waiting = deque(submission for submission in self._waiting if not submission.future.done())
                self._waiting_items = sum(len(submission.items) for submission in self._waiting)


def _stopped() -> MeteringError:
    return MeteringError(
        Reason.SHUTTING_DOWN, "this server is stopping; send it again, to another one", retry_after_s=0.1
    )
