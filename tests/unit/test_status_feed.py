"""The feed of status changes, with notifications and heartbeats in the test's hands."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TypeVar

import pytest

from metering.access import feed as feed_module
from metering.access.feed import StatusFeed
from metering.access.statuses import Statuses
from metering.errors import DatabaseUnavailableError, MeteringError, Reason
from metering.model import AccountId, Money, ServiceState, ServiceStatus
from tests.support.waiting import LONG_S, until

T = TypeVar("T")
A, B, C = AccountId("a"), AccountId("b"), AccountId("c")


def status(account_id: AccountId, version: int = 1, state: ServiceState = ServiceState.ACTIVE) -> ServiceStatus:
    return ServiceStatus(account_id, state, "", Money(Decimal(0), "CNY"), version)


class Connection:
    """A connection whose heartbeats answer while the database is there."""

    def __init__(self, database: "Database") -> None:
        self.database = database

    async def heartbeat(self, timeout_s: float) -> None:
        self.database.heartbeats += 1
        await self.database.beating.wait()
        if self.database.away:
            raise DatabaseUnavailableError("away")


class Database:
    """Statuses, and notifications of their changes."""

    def __init__(self, *stored: ServiceStatus) -> None:
        self.stored = {each.account_id: each for each in stored}
        self.listeners: list[Callable[[list[AccountId]], None]] = []
        self.listened = self.heartbeats = 0
        self.away = False
        self.beating = asyncio.Event()
        self.beating.set()
        self.read: list[list[AccountId]] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.read_failures = 0

    @asynccontextmanager
    async def listen(self, changed: Callable[[list[AccountId]], None]) -> AsyncIterator[Connection]:
        if self.away:
            raise DatabaseUnavailableError("away")
        self.listened += 1
        self.listeners.append(changed)
        try:
            yield Connection(self)
        finally:
            self.listeners.remove(changed)

    def change(self, *changed: ServiceStatus) -> None:
        """Commit changes; whoever listens hears of them."""
        self.stored.update({each.account_id: each for each in changed})
        for listener in self.listeners:
            listener([each.account_id for each in changed])

    async def account_ids(self, chunk: int) -> AsyncIterator[list[AccountId]]:
        ids = sorted(self.stored)
        for start in range(0, len(ids), chunk):
            yield ids[start : start + chunk]

    async def statuses(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        self.read.append(sorted(account_ids))
        found = [self.stored[each] for each in account_ids if each in self.stored]
        await self.reading.wait()
        if self.away:
            raise DatabaseUnavailableError("away")
        if self.read_failures:
            self.read_failures -= 1
            raise DatabaseUnavailableError("this query only")
        return found


class Desk:
    """A feed with its statuses."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.statuses = Statuses(database)
        self.feed = StatusFeed(database, database, self.statuses)


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_INTERVAL_S", 0.02)
    monkeypatch.setattr(feed_module, "RECONNECT_INTERVAL_S", 0.02)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Return a feed that is up."""
    desk = Desk(Database(status(A), status(B), status(C)))
    run = asyncio.create_task(desk.feed.run())
    await until(lambda: desk.feed.up)
    yield desk
    assert not run.done(), "the feed has died"
    run.cancel()


async def lose_connection(desk: Desk) -> None:
    desk.database.away = True
    await until(lambda: not desk.feed.up)


async def until_known(desk: Desk, expected: ServiceStatus) -> None:
    await until(lambda: desk.statuses.known(expected.account_id) == expected)


async def take(watch: AsyncIterator[T]) -> T:
    async with asyncio.timeout(LONG_S):
        return await anext(watch)


async def test_a_change_reaches_the_statuses_in_memory(desk: Desk) -> None:
    await desk.statuses.of([A])
    suspended = status(A, 2, ServiceState.SUSPENDED)
    desk.database.change(suspended)
    await until_known(desk, suspended)


async def test_a_change_is_taken_in_without_waiting_for_the_next_heartbeat(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_INTERVAL_S", 10 * LONG_S)
    await desk.statuses.of([A])
    beaten = desk.database.heartbeats
    await until(lambda: desk.database.heartbeats > beaten or not desk.feed._woken.is_set())
    await asyncio.sleep(0.05)
    beaten = desk.database.heartbeats
    for version in (2, 3):
        desk.database.change(status(A, version))
        await until_known(desk, status(A, version))
    assert desk.database.heartbeats == beaten


async def test_several_changes_heard_at_once_are_read_in_one_query(desk: Desk) -> None:
    await desk.statuses.of([A, B, C])
    desk.database.read.clear()
    desk.database.change(status(A, 2))
    desk.database.change(status(B, 2), status(A, 3))
    await until(lambda: desk.statuses.known(A) == status(A, 3) and desk.statuses.known(B) == status(B, 2))
    assert desk.database.read == [[A, B]]


async def test_a_feed_that_never_was_up_has_no_end_of_age() -> None:
    desk = Desk(Database())
    assert desk.feed.age_s == float("inf")
    assert not desk.feed.up


async def test_in_good_health_statuses_stay_young(desk: Desk) -> None:
    beaten = desk.database.heartbeats
    await until(lambda: desk.database.heartbeats >= beaten + 5)
    assert desk.feed.age_s < 5


async def test_age_grows_while_heartbeats_do_not_come_back(desk: Desk) -> None:
    beaten = desk.database.heartbeats
    desk.database.beating.clear()
    await until(lambda: desk.database.heartbeats > beaten)
    before = desk.feed.age_s
    await until(lambda: desk.feed.age_s > before + 0.1)
    desk.database.beating.set()
    await until(lambda: desk.feed.age_s < 0.1)


async def test_age_grows_while_the_database_is_away_and_shrinks_when_it_is_back(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await lose_connection(desk)
    await until(lambda: desk.feed.age_s > 0.2)
    desk.database.away = False
    await until(lambda: desk.feed.up and desk.feed.age_s < 0.2)
    assert caplog.text.count("service statuses grow old until the database is back") == 1


async def test_age_counts_from_before_the_heartbeat_was_sent(desk: Desk) -> None:
    desk.database.beating.clear()
    beaten = desk.database.heartbeats
    await until(lambda: desk.database.heartbeats > beaten)
    sent_at = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > sent_at + 0.1)
    desk.database.beating.set()
    desk.database.beating.clear()  # this heartbeat comes back, the next one does not
    await until(lambda: desk.database.heartbeats > beaten + 1)
    assert desk.feed.age_s >= 0.1


async def test_statuses_are_not_young_before_the_changes_heard_of_are_taken_in(desk: Desk) -> None:
    await desk.statuses.of([A])
    desk.database.reading.clear()
    desk.database.change(status(A, 2))
    await until(lambda: desk.feed.age_s > 0.15)
    desk.database.reading.set()
    await until(lambda: desk.feed.age_s < 0.15)
    assert desk.statuses.known(A) == status(A, 2)


async def test_what_changed_unheard_is_read_again_after_a_reconnect(desk: Desk) -> None:
    await desk.statuses.of([A, B])
    await lose_connection(desk)
    desk.database.change(status(A, 2, ServiceState.SUSPENDED))
    desk.database.away = False
    await until(lambda: desk.feed.up)
    assert desk.statuses.known(A) == status(A, 2, ServiceState.SUSPENDED)
    assert desk.statuses.known(B) == status(B)
    assert desk.database.listened == 2


async def test_a_look_up_under_way_during_a_reconnect_leaves_no_stale_status_behind(desk: Desk) -> None:
    await lose_connection(desk)
    desk.database.reading.clear()
    look_up = asyncio.create_task(desk.statuses.look_up([A]))
    await until(lambda: desk.database.read)  # it has read the old status
    desk.database.change(status(A, 2, ServiceState.SUSPENDED))  # nobody listens
    desk.database.away = False
    await until(lambda: desk.database.listened == 2)
    await asyncio.sleep(0.05)
    desk.database.reading.set()
    await look_up
    await until(lambda: desk.feed.up)
    await until(lambda: desk.statuses.known(A) == status(A, 2, ServiceState.SUSPENDED), within_s=3)


async def test_a_watcher_gets_the_present_statuses_and_then_every_change(desk: Desk) -> None:
    watch = desk.feed.watch([B, A, AccountId("unknown")])
    assert await take(watch) == [status(A), status(B)]
    assert desk.feed.watchers == 1
    for version in (2, 3, 4):
        desk.database.change(status(A, version))
        assert await take(watch) == [status(A, version)]
    await watch.aclose()  # type: ignore[attr-defined]
    assert desk.feed.watchers == 0


async def test_a_watcher_hears_only_of_the_accounts_it_named(desk: Desk) -> None:
    watch = desk.feed.watch([A])
    await take(watch)
    desk.database.change(status(B, 2))
    await until(lambda: not desk.feed._changed)
    desk.database.change(status(C, 2), status(A, 2))
    assert await take(watch) == [status(A, 2)]


async def test_who_names_no_accounts_watches_all_of_them_in_chunks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "ACCOUNTS_PER_LOOK_UP", 2)
    watch = desk.feed.watch([])
    assert await take(watch) == [status(A), status(B)]
    assert await take(watch) == [status(C)]
    desk.database.change(status(AccountId("new")))
    assert await take(watch) == [status(AccountId("new"))]


async def test_what_changes_while_all_are_being_read_is_told_afterwards(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "ACCOUNTS_PER_LOOK_UP", 2)
    watch = desk.feed.watch([])
    assert await take(watch) == [status(A), status(B)]
    desk.database.change(status(A, 2))
    assert await take(watch) == [status(C)]
    assert await take(watch) == [status(A, 2)]


async def test_a_watched_account_that_was_unknown_is_told_when_it_is_activated(desk: Desk) -> None:
    new = AccountId("new")
    watch = desk.feed.watch([new])
    assert await take(watch) == []
    desk.database.change(status(new))
    assert await take(watch) == [status(new)]


async def test_a_slow_watcher_gets_the_newest_status_only_and_costs_no_memory(desk: Desk) -> None:
    watch = desk.feed.watch([A, B])
    await take(watch)
    for version in range(2, 50):
        desk.database.change(status(A, version))
        await until_known(desk, status(A, version))
    desk.database.change(status(B, 2))
    await until_known(desk, status(B, 2))
    await until(lambda: not desk.feed._changed)
    (watcher,) = desk.feed._watchers
    await until(lambda: len(watcher.changed) == 2)
    assert await take(watch) == [status(A, 49), status(B, 2)]


async def test_after_a_reconnect_a_watcher_gets_everything_again(desk: Desk) -> None:
    watch = desk.feed.watch([A, B])
    await take(watch)
    await lose_connection(desk)
    desk.database.change(status(B, 2, ServiceState.SUSPENDED))
    desk.database.away = False
    assert await take(watch) == [status(A), status(B, 2, ServiceState.SUSPENDED)]


async def test_a_watcher_that_begins_while_the_database_is_away_waits_for_it(desk: Desk) -> None:
    await lose_connection(desk)
    watch = desk.feed.watch([A])
    first = asyncio.create_task(take(watch))
    await until(lambda: desk.feed.watchers == 1)
    await until(lambda: desk.feed.age_s > 0.1)
    assert not first.done()
    desk.database.away = False
    assert await first == [status(A)]


@pytest.mark.parametrize("watched", [[A], []])
async def test_a_watcher_whose_query_failed_is_told_all_the_same_while_the_feed_is_in_good_health(
    desk: Desk, watched: list[AccountId]
) -> None:
    desk.database.read_failures = 1
    watch = desk.feed.watch(watched)
    async with asyncio.timeout(3):
        assert status(A) in await anext(watch)
    assert desk.database.listened == 1


@pytest.mark.parametrize("watched", [[A], []])
async def test_when_the_server_stops_watchers_are_told_to_go_elsewhere(desk: Desk, watched: list[AccountId]) -> None:
    watch = desk.feed.watch(watched)
    await take(watch)
    waiting = asyncio.create_task(take(watch))
    await asyncio.sleep(0)
    desk.feed.stop_watching()
    with pytest.raises(MeteringError) as stopped:
        await waiting
    assert stopped.value.reason is Reason.SHUTTING_DOWN
    assert stopped.value.retry_after_s is not None
    assert desk.feed.watchers == 0
    with pytest.raises(MeteringError):
        await take(desk.feed.watch(watched))


async def test_a_watcher_that_is_cancelled_is_forgotten(desk: Desk) -> None:
    watch = desk.feed.watch([A])
    await take(watch)
    waiting = asyncio.create_task(take(watch))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert desk.feed.watchers == 0


async def test_one_watcher_does_not_hold_up_another(desk: Desk) -> None:
    slow, fast = desk.feed.watch([A]), desk.feed.watch([A])
    await take(slow)
    await take(fast)
    for version in (2, 3):
        desk.database.change(status(A, version))
        assert await take(fast) == [status(A, version)]
    assert await take(slow) == [status(A, 3)]


async def test_a_defect_ends_the_feed_for_all_to_see() -> None:
    database = Database(status(A))

    async def broken(account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        raise ZeroDivisionError("a defect")

    desk = Desk(database)
    await desk.statuses.of([A])
    database.statuses = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError, match="a defect"):
        async with asyncio.timeout(LONG_S):
            await desk.feed.run()
