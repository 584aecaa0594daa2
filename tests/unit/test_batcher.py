"""Group commit, with a commit in the test's hands."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.errors import (
    DatabaseUnavailableError,
    MeteringError,
    Reason,
    RowRefusedError,
    TransactionConflictError,
)
from metering.recording import batcher as batcher_module
from metering.recording.batcher import Batcher, BatcherLimits
from tests.support.waiting import LONG_S, until

PLENTY = BatcherLimits(queue_items_max=10_000, batch_items_max=10_000, committers=1, spacing_s=0)
"""Longer than any test here may take."""


@dataclass
class Counts:
    """What the batcher told of itself."""

    batches: list[int] = field(default_factory=list)
    failures: int = 0

    def committed(self, items: int, seconds: float) -> None:
        assert seconds >= 0
        self.batches.append(items)

    def failed(self) -> None:
        self.failures += 1


class Database:
    """Commits numbers, at once or when it is let; `begun` and `committed` tell which, in order."""

    def __init__(self, *, bad: Iterable[int] = ()) -> None:
        self.bad = frozenset(bad)
        self.begun: list[list[int]] = []
        self.committed: list[int] = []
        self.refused: list[int] = []
        self.away: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.counts = Counts()
        self.busy = 1.0

    async def commit(self, items: Sequence[int]) -> Sequence[str]:
        self.begun.append(list(items))
        await self.open.wait()
        if self.away:
            raise self.away
        if bad := self.bad.intersection(items):
            raise RowRefusedError(f"bad: {min(bad)}")
        self.committed.extend(items)
        return [f"{item} committed" for item in items]

    async def refuse(self, item: int, message: str) -> MeteringError:
        self.refused.append(item)
        return MeteringError(Reason.UNRECORDABLE, message)

    def batcher(self, limits: BatcherLimits = PLENTY) -> Batcher[int, str]:
        return Batcher(self.commit, self.refuse, limits, self.counts, "numbers", lambda: self.busy)


@asynccontextmanager
async def running(database: Database, limits: BatcherLimits = PLENTY) -> AsyncIterator[Batcher[int, str]]:
    """Run a batcher, and drain it at the end."""
    batcher = database.batcher(limits)
    run = asyncio.create_task(batcher.run())
    try:
        yield batcher
        database.open.set()
        database.away = None
        batcher.drain()
        await asyncio.wait_for(run, LONG_S)
    finally:
        run.cancel()


def submit(
    batcher: Batcher[int, str], *items: int, wait_s: float = LONG_S
) -> asyncio.Task[Sequence[str | MeteringError]]:
    return asyncio.create_task(batcher.submit(items, wait_s))


async def hold(
    database: Database, batcher: Batcher[int, str], *items: int
) -> asyncio.Task[Sequence[str | MeteringError]]:
    """Begin a commit that does not end before the database is opened."""
    database.open.clear()
    begun = len(database.begun)
    held = submit(batcher, *items)
    await until(lambda: len(database.begun) > begun)
    return held


async def test_a_lone_submission_is_committed_at_once() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=10, batch_items_max=10, committers=1, spacing_s=10 * LONG_S)
    async with running(database, limits) as batcher:
        for number in (1, 2, 3):
            async with asyncio.timeout(LONG_S):
                assert await batcher.submit([number], LONG_S) == [f"{number} committed"]
    assert database.begun == [[1], [2], [3]]


async def test_what_arrives_during_a_commit_is_one_next_batch() -> None:
    database = Database()
    async with running(database) as batcher:
        first = await hold(database, batcher, 1)
        others = [submit(batcher, number, number + 100) for number in (2, 3, 4)]
        await until(lambda: batcher.waiting_items == 6)
        database.open.set()
        assert await first == ["1 committed"]
        assert await asyncio.gather(*others) == [
            [f"{number} committed", f"{number + 100} committed"] for number in (2, 3, 4)
        ]
    assert database.begun == [[1], [2, 102, 3, 103, 4, 104]]
    assert database.counts.batches == [1, 6]


async def test_a_batch_has_at_most_so_many_items() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=100, batch_items_max=3, committers=1, spacing_s=0)
    async with running(database, limits) as batcher:
        held = await hold(database, batcher, 0)
        others = [submit(batcher, *range(start, start + size)) for start, size in ((1, 2), (3, 1), (4, 2), (6, 2))]
        await until(lambda: batcher.waiting_items == 7)
        database.open.set()
        await asyncio.gather(held, *others)
    assert database.begun == [[0], [1, 2, 3], [4, 5], [6, 7]]


async def test_a_submission_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=100, batch_items_max=3, committers=1, spacing_s=0)
    async with running(database, limits) as batcher:
        held = await hold(database, batcher, 0)
        others = [submit(batcher, 1), submit(batcher, 2, 3, 4, 5, 6), submit(batcher, 7)]
        await until(lambda: batcher.waiting_items == 7)
        database.open.set()
        await asyncio.gather(held, *others)
    assert database.begun == [[0], [1], [2, 3, 4, 5, 6], [7]]


async def test_while_the_event_loop_is_busy_two_commits_begin_no_closer_together_than_the_spacing() -> None:
    database, spacing_s = Database(), 0.02
    limits = BatcherLimits(queue_items_max=100, batch_items_max=100, committers=1, spacing_s=spacing_s)
    loop = asyncio.get_running_loop()
    async with running(database, limits) as batcher:
        start = loop.time()
        await batcher.submit(range(1, 61), LONG_S)
        assert loop.time() - start < spacing_s
        await batcher.submit([61], LONG_S)
        assert loop.time() - start >= spacing_s


async def test_the_spacing_grows_with_how_busy_the_event_loop_is() -> None:
    database, spacing_s = Database(), 0.05
    database.busy = (batcher_module.SPACED_FROM_BUSY + batcher_module.SPACED_FULLY_BUSY) / 2
    limits = BatcherLimits(queue_items_max=100, batch_items_max=100, committers=1, spacing_s=spacing_s)
    loop = asyncio.get_running_loop()
    async with running(database, limits) as batcher:
        start = loop.time()
        await batcher.submit(range(60), LONG_S)
        await batcher.submit([60], LONG_S)
        assert loop.time() - start >= 0.9 * spacing_s / 2


async def test_while_the_event_loop_has_little_to_do_calls_in_company_do_not_wait_either() -> None:
    database = Database()
    database.busy = batcher_module.SPACED_FROM_BUSY
    limits = BatcherLimits(queue_items_max=1_000, batch_items_max=1_000, committers=1, spacing_s=10 * LONG_S)
    async with running(database, limits) as batcher, asyncio.timeout(LONG_S):
        for _ in range(3):
            await batcher.submit(range(60), LONG_S)


async def test_calls_one_after_the_other_do_not_wait_for_the_spacing() -> None:
    limits = BatcherLimits(queue_items_max=100, batch_items_max=100, committers=1, spacing_s=10 * LONG_S)
    async with running(Database(), limits) as batcher, asyncio.timeout(LONG_S):
        for number in range(5):
            await batcher.submit([number], LONG_S)


async def test_a_full_batch_does_not_wait_for_the_spacing() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=100, batch_items_max=2, committers=1, spacing_s=10 * LONG_S)
    async with running(database, limits) as batcher, asyncio.timeout(LONG_S):
        for _ in range(3):
            await batcher.submit([1, 2], LONG_S)


async def test_as_many_batches_are_committed_at_the_same_time_as_there_are_committers() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=100, batch_items_max=1, committers=3, spacing_s=0)
    async with running(database, limits) as batcher:
        database.open.clear()
        submitted = [submit(batcher, number) for number in range(5)]
        await until(lambda: len(database.begun) == 3)
        await until(lambda: batcher.waiting_items == 2)
        database.open.set()
        await asyncio.gather(*submitted)


async def test_no_more_may_wait_than_is_committed_in_the_time_that_one_may_wait() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=10_000, batch_items_max=1_000, committers=2, spacing_s=0, queue_wait_s=3)
    async with running(database, limits) as batcher:
        batcher._committed(1_000, 2.0)  # two batches of 1,000 at a time: 1,000 a second
        held = await hold(database, batcher, 0)
        waiting = submit(batcher, *range(1, 3_000))
        await until(lambda: len(database.begun) == 2)
        with pytest.raises(MeteringError, match="3000 calls wait to be recorded") as refused:
            await batcher.submit([3_000], LONG_S)
        assert refused.value.retry_after_s == 1.5
        database.open.set()
        await asyncio.gather(held, waiting)


async def test_small_commits_do_not_shut_the_queue_for_large_ones() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=50_000, batch_items_max=10_000, committers=2, spacing_s=0, queue_wait_s=2)
    async with running(database, limits) as batcher:
        batcher._committed(1, 0.004)  # as fast as one call can be, which is not how fast many are
        batches = [submit(batcher, *range(first, first + 1_000)) for first in range(0, 20_000, 1_000)]
        await asyncio.gather(*batches)
    assert len(database.committed) == 20_000


async def test_a_slow_commit_does_not_shut_the_queue_for_a_moments_burst() -> None:
    database = Database()
    async with running(database) as batcher:
        batcher._committed(1, 60.0)
        assert len(await batcher.submit(range(1_000), LONG_S)) == 1_000
        held = await hold(database, batcher, 0)
        waiting = submit(batcher, *range(1, 1_000))
        await until(lambda: batcher.waiting_items == 999)
        database.open.set()
        await asyncio.gather(held, waiting)


async def test_a_full_queue_refuses_more_and_says_when_to_come_back() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=4, batch_items_max=10, committers=1, spacing_s=0)
    async with running(database, limits) as batcher:
        held = await hold(database, batcher, 0)
        waiting = submit(batcher, 1, 2)
        await until(lambda: batcher.waiting_items == 2)
        with pytest.raises(MeteringError, match="3 calls wait to be recorded") as refused:
            await batcher.submit([3, 4], LONG_S)
        assert refused.value.reason is Reason.QUEUE_FULL
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        fits = submit(batcher, 5)
        await until(lambda: batcher.waiting_items == 3)
        database.open.set()
        await asyncio.gather(held, waiting, fits)
        assert await batcher.submit([6], LONG_S) == ["6 committed"]
    assert database.committed == [0, 1, 2, 5, 6]


async def test_an_empty_queue_takes_a_submission_that_is_larger_than_it() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=3, batch_items_max=2, committers=1, spacing_s=0)
    async with running(database, limits) as batcher:
        assert len(await batcher.submit(range(10), LONG_S)) == 10


async def test_who_is_cancelled_while_waiting_is_not_committed() -> None:
    database = Database()
    async with running(database) as batcher:
        held = await hold(database, batcher, 0)
        cancelled, neighbour = submit(batcher, 1), submit(batcher, 2)
        await until(lambda: batcher.waiting_items == 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        database.open.set()
        assert await neighbour == ["2 committed"]
        await held
        assert batcher.waiting_items == 0
    assert database.committed == [0, 2]


@pytest.mark.parametrize("leave", ["cancelled", "expired"])
async def test_who_leaves_the_queue_makes_room_in_it_even_while_a_commit_hangs(leave: str) -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=3, batch_items_max=10, committers=1, spacing_s=0)
    async with running(database, limits) as batcher:
        held = await hold(database, batcher, 0)
        gone = submit(batcher, 1, 2, wait_s=0.01 if leave == "expired" else LONG_S)
        await until(lambda: batcher.waiting_items == 2)
        if leave == "cancelled":
            gone.cancel()
        with pytest.raises((asyncio.CancelledError, DatabaseUnavailableError)):
            await gone
        await until(lambda: not batcher.waiting_items, within_s=3)
        database.open.set()
        await held
    assert database.committed == [0]


async def test_a_commit_that_has_begun_goes_on_without_the_one_who_was_cancelled() -> None:
    database = Database()
    async with running(database) as batcher:
        database.open.clear()
        cancelled, neighbour = submit(batcher, 1), submit(batcher, 2)
        await until(lambda: database.begun == [[1, 2]])
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        database.open.set()
        assert await neighbour == ["2 committed"]
    assert database.committed == [1, 2]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_exactly_the_items_that_the_database_refuses_are_refused(sizes: list[int], data: st.DataObject) -> None:
    items = list(range(sum(sizes)))
    bad = data.draw(st.sets(st.sampled_from(items)))

    async def submit_all() -> tuple[Database, list[Sequence[str | MeteringError]]]:
        database = Database(bad=bad)
        async with running(database) as batcher:
            database.open.clear()
            remaining = iter(items)
            submitted = [submit(batcher, *(next(remaining) for _ in range(size))) for size in sizes]
            await until(lambda: len(database.begun) == 1)
            database.open.set()
            return database, await asyncio.gather(*submitted)

    database, results = asyncio.run(submit_all())
    assert [len(each) for each in results] == sizes
    for item, result in zip(items, [result for each in results for result in each], strict=True):
        if item in bad:
            assert isinstance(result, MeteringError)
            assert (result.reason, result.message) == (Reason.UNRECORDABLE, f"bad: {item}")
        else:
            assert result == f"{item} committed"
    assert database.refused == sorted(bad)
    assert database.committed == [item for item in items if item not in bad]


async def test_while_the_database_is_away_calls_wait_and_are_committed_in_order_when_it_is_back() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=100, batch_items_max=2, committers=1, spacing_s=0)
    async with running(database, limits) as batcher:
        database.away = DatabaseUnavailableError("away")
        submitted = [submit(batcher, 0)]
        await until(lambda: database.counts.failures >= 1)
        for number in (1, 2, 3):
            submitted.append(submit(batcher, number))
            await asyncio.sleep(0)
        await until(lambda: database.counts.failures >= 2)
        assert not any(task.done() for task in submitted)
        database.away = None
        assert await asyncio.gather(*submitted) == [[f"{number} committed"] for number in range(4)]
    assert database.committed == [0, 1, 2, 3]


async def test_a_transaction_undone_in_favour_of_another_one_is_done_again() -> None:
    database = Database()
    async with running(database) as batcher:
        database.away = TransactionConflictError("deadlock detected")
        submitted = submit(batcher, 1)
        await until(lambda: database.counts.failures >= 1)
        database.away = None
        assert await submitted == ["1 committed"]


async def test_an_item_is_refused_once_the_database_is_back_even_if_it_went_away_while_refusing() -> None:
    database = Database(bad=[2])
    refuse = database.refuse
    failures = iter([DatabaseUnavailableError("away while refusing")])

    async def refuse_later(item: int, message: str) -> MeteringError:
        if failure := next(failures, None):
            raise failure
        return await refuse(item, message)

    database.refuse = refuse_later  # type: ignore[method-assign]
    async with running(database) as batcher:
        one, two, three = await batcher.submit([1, 2, 3], LONG_S)
        assert (one, three) == ("1 committed", "3 committed")
        assert isinstance(two, MeteringError)
    assert database.refused == [2]


async def test_one_committer_may_commit_what_another_one_failed_to_and_pauses_for() -> None:
    database = Database()
    commit, outage = database.commit, iter([True])

    async def fail_once(items: Sequence[int]) -> Sequence[str]:
        if next(outage, False):
            raise DatabaseUnavailableError("away")
        return await commit(items)

    database.commit = fail_once  # type: ignore[method-assign]
    limits = BatcherLimits(queue_items_max=100, batch_items_max=10, committers=2, spacing_s=0)
    async with running(database, limits) as batcher, asyncio.timeout(LONG_S):
        database.open.clear()
        first = submit(batcher, 1)
        await until(lambda: database.begun == [[1]])  # by the other one
        second = submit(batcher, 2)
        await until(lambda: database.begun == [[1], [2]])  # by the one that failed, after its pause
        database.open.set()
        assert [await first, await second] == [["1 committed"], ["2 committed"]]
        assert await batcher.submit([3], LONG_S) == ["3 committed"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.booleans(), max_size=25), st.integers(1, 4))
def test_every_submission_gets_its_result_however_often_the_database_goes_away(
    outages: list[bool], committers: int
) -> None:
    async def submit_through_outages() -> None:
        database = Database()
        commit, outage = database.commit, iter(outages)

        async def flaky_commit(items: Sequence[int]) -> Sequence[str]:
            await asyncio.sleep(0.001)
            if next(outage, False):
                raise DatabaseUnavailableError("away")
            return await commit(items)

        database.commit = flaky_commit  # type: ignore[method-assign]
        limits = BatcherLimits(queue_items_max=1_000, batch_items_max=3, committers=committers, spacing_s=0)
        async with running(database, limits) as batcher, asyncio.timeout(LONG_S):
            results = await asyncio.gather(*(submit(batcher, number, -number) for number in range(12)))
        assert results == [[f"{number} committed", f"{-number} committed"] for number in range(12)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher_module, "BACK_OFF_S", (0.002, 0.004))
        asyncio.run(submit_through_outages())


async def test_who_has_waited_long_enough_for_an_absent_database_is_told_so() -> None:
    database = Database()
    async with running(database) as batcher:
        database.away = DatabaseUnavailableError("away")
        patient = submit(batcher, 1)
        with pytest.raises(DatabaseUnavailableError, match="send it again with the same occurred_at") as expired:
            await batcher.submit([2], 0.01)
        assert expired.value.reason is Reason.DATABASE_UNAVAILABLE
        assert expired.value.retry_after_s is not None
        assert not patient.done()
        database.away = None
        assert await patient == ["1 committed"]


async def test_who_has_waited_long_enough_for_a_hanging_commit_is_told_so_and_the_commit_goes_on() -> None:
    database = Database()
    async with running(database) as batcher:
        database.open.clear()
        with pytest.raises(DatabaseUnavailableError):
            await batcher.submit([1], 0.01)
        assert database.begun == [[1]]
        database.open.set()
        await until(lambda: database.committed == [1])
        assert await batcher.submit([2], LONG_S) == ["2 committed"]


async def test_who_waits_behind_a_hanging_commit_is_told_in_time_too_and_is_not_committed_later() -> None:
    database = Database()
    async with running(database) as batcher:
        held = await hold(database, batcher, 0)
        with pytest.raises(DatabaseUnavailableError):
            await batcher.submit([1], 0.01)
        database.open.set()
        await held
    assert database.committed == [0]


async def test_draining_commits_all_that_waits_and_then_ends() -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=100, batch_items_max=2, committers=2, spacing_s=0.001)
    batcher = database.batcher(limits)
    run = asyncio.create_task(batcher.run())
    held = await hold(database, batcher, 0)
    others = [submit(batcher, number) for number in range(1, 10)]
    await until(lambda: batcher.waiting_items + sum(map(len, database.begun)) == 10)
    batcher.drain()
    assert not run.done()
    database.open.set()
    async with asyncio.timeout(LONG_S):
        await run
    assert sorted(database.committed) == list(range(10))
    assert all(task.done() for task in (held, *others))


async def test_draining_waits_for_a_database_that_is_away() -> None:
    database = Database()
    batcher = database.batcher()
    run = asyncio.create_task(batcher.run())
    database.away = DatabaseUnavailableError("away")
    submitted = submit(batcher, 1)
    await until(lambda: database.counts.failures >= 1)
    batcher.drain()
    failures = database.counts.failures
    await until(lambda: database.counts.failures > failures)
    assert not run.done()
    database.away = None
    assert await submitted == ["1 committed"]
    async with asyncio.timeout(LONG_S):
        await run


async def test_draining_ends_when_nobody_waits_any_more_for_a_database_that_stays_away() -> None:
    database = Database()
    database.away = DatabaseUnavailableError("away")
    batcher = database.batcher()
    run = asyncio.create_task(batcher.run())
    submitted = submit(batcher, 1, wait_s=0.01)
    batcher.drain()
    async with asyncio.timeout(LONG_S):
        await run
    assert isinstance(submitted.exception(), DatabaseUnavailableError)


async def test_an_idle_batcher_drains_at_once() -> None:
    database = Database()
    batcher = database.batcher(BatcherLimits(queue_items_max=1, batch_items_max=1, committers=4, spacing_s=9))
    run = asyncio.create_task(batcher.run())
    await asyncio.sleep(0)
    batcher.drain()
    async with asyncio.timeout(LONG_S):
        await run


@pytest.mark.parametrize("committers", [1, 3])
async def test_a_defect_in_the_commit_ends_the_batcher_for_all_to_see(committers: int) -> None:
    database = Database()
    limits = BatcherLimits(queue_items_max=10, batch_items_max=10, committers=committers, spacing_s=0)
    batcher = database.batcher(limits)
    run = asyncio.create_task(batcher.run())
    database.away = ZeroDivisionError("a defect")
    submitted = submit(batcher, 1)
    with pytest.raises(ExceptionGroup) as died:
        async with asyncio.timeout(LONG_S):
            await run
    assert died.group_contains(ZeroDivisionError, match="a defect")
    submitted.cancel()


async def test_cancelling_the_batcher_ends_it() -> None:
    database = Database()
    batcher = database.batcher()
    run = asyncio.create_task(batcher.run())
    held = await hold(database, batcher, 0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    held.cancel()


async def test_the_age_of_the_queue_is_that_of_the_oldest_that_waits_or_is_being_committed() -> None:
    database = Database()
    async with running(database) as batcher:
        assert batcher.oldest_wait_s == 0
        held = await hold(database, batcher, 0)
        await until(lambda: batcher.oldest_wait_s > 0.02)
        waiting = submit(batcher, 1)
        await until(lambda: batcher.waiting_items == 1)
        assert batcher.oldest_wait_s > 0.02
        database.open.set()
        await asyncio.gather(held, waiting)
        await until(lambda: batcher.oldest_wait_s == 0)


async def test_a_call_that_waits_for_an_absent_database_grows_old() -> None:
    database = Database()
    async with running(database) as batcher:
        database.away = DatabaseUnavailableError("away")
        submitted = submit(batcher, 1)
        await until(lambda: batcher.oldest_wait_s > 0.1)
        database.away = None
        await submitted


@pytest.mark.parametrize(("failures", "lines"), [(0, 0), (3, 2)])
async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    failures: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database()
    async with running(database) as batcher:
        if failures:
            database.away = DatabaseUnavailableError("no route to host")
        submitted = submit(batcher, 1)
        await until(lambda: database.counts.failures >= failures)
        database.away = None
        await submitted
    messages = [record.getMessage() for record in caplog.records if record.name == "metering.recording.batcher"]
    assert len(messages) == lines
    if lines:
        assert "no route to host" in messages[0]
        assert "the database is back" in messages[1]
