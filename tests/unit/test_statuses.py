"""Service statuses in memory, with look-ups in the test's hands."""

import asyncio
from collections.abc import Iterable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.access import statuses as statuses_module
from metering.access.statuses import Statuses
from metering.errors import DatabaseUnavailableError
from metering.model import AccountId, Money, ServiceState, ServiceStatus
from tests.support.waiting import until

A, B, C, UNKNOWN = AccountId("a"), AccountId("b"), AccountId("c"), AccountId("unknown")


def status(account_id: AccountId, version: int = 1, state: ServiceState = ServiceState.ACTIVE) -> ServiceStatus:
    return ServiceStatus(account_id, state, "", Money(Decimal(0), "CNY"), version)


class Query:
    """A query that has read what there was, but not returned."""

    def __init__(self, account_ids: Iterable[AccountId], answer: list[ServiceStatus]) -> None:
        self.account_ids = sorted(account_ids)
        self.answer = answer
        self.returned: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Database:
    """Statuses, and the queries for them: each returns what it read when it began, once it is let."""

    def __init__(self, *stored: ServiceStatus) -> None:
        self.stored = {each.account_id: each for each in stored}
        self.queries: list[Query] = []
        self.held = False
        self.away = False

    def store(self, changed: ServiceStatus) -> None:
        self.stored[changed.account_id] = changed

    async def statuses(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        query = Query(account_ids, [self.stored[each] for each in account_ids if each in self.stored])
        self.queries.append(query)
        if self.held:
            await query.returned
        if self.away:
            raise DatabaseUnavailableError("away")
        return query.answer

    def let_return(self, number: int) -> None:
        self.queries[number].returned.set_result(None)

    def let_all_return(self) -> None:
        for query in self.queries:
            if not query.returned.done():
                query.returned.set_result(None)


@pytest.fixture
def database() -> Database:
    return Database(status(A), status(B), status(C))


@pytest.fixture
def statuses(database: Database) -> Statuses:
    return Statuses(database)


async def test_an_account_is_looked_up_when_first_asked_for_and_then_known(
    statuses: Statuses, database: Database
) -> None:
    assert statuses.known(A) is None
    assert await statuses.of([A]) == [status(A)]
    assert await statuses.of([A]) == [status(A)] == [statuses.known(A)]
    assert statuses.known_accounts() == [A]
    assert len(statuses) == len(database.queries) == 1


async def test_statuses_come_in_the_order_they_were_asked_for_without_the_unknown(statuses: Statuses) -> None:
    await statuses.of([B])
    assert await statuses.of([C, UNKNOWN, B, A]) == [status(C), status(B), status(A)]


async def test_an_unknown_account_is_looked_up_each_time_so_that_its_activation_is_seen_at_once(
    statuses: Statuses, database: Database
) -> None:
    assert await statuses.look_up([UNKNOWN]) == {}
    assert await statuses.of([UNKNOWN]) == []
    assert len(statuses) == 0
    database.store(status(UNKNOWN))
    assert await statuses.of([UNKNOWN]) == [status(UNKNOWN)]
    assert len(database.queries) == 3


async def test_however_many_ask_at_once_there_is_one_query(statuses: Statuses, database: Database) -> None:
    answers = await asyncio.gather(*(statuses.of([account_id]) for account_id in [A, B, C] * 50))
    assert [query.account_ids for query in database.queries] == [[A, B, C]]
    assert answers == [[status(A)], [status(B)], [status(C)]] * 50


async def test_all_who_ask_during_a_query_share_the_next_one(statuses: Statuses, database: Database) -> None:
    database.held = True
    first = asyncio.create_task(statuses.of([A]))
    await until(lambda: len(database.queries) == 1)
    others = [asyncio.create_task(statuses.of([each])) for each in (B, C, A, UNKNOWN)]
    await asyncio.sleep(0)
    assert len(database.queries) == 1
    database.let_return(0)
    await until(lambda: len(database.queries) == 2)
    assert database.queries[1].account_ids == sorted([A, B, C, UNKNOWN])
    database.let_return(1)
    assert await asyncio.gather(first, *others) == [[status(A)], [status(B)], [status(C)], [status(A)], []]


async def test_one_query_asks_for_so_many_accounts_and_no_more(
    statuses: Statuses, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses_module, "ACCOUNTS_PER_LOOK_UP", 2)
    accounts = [AccountId(f"{number}") for number in range(5)]
    for account_id in accounts:
        database.store(status(account_id))
    assert await statuses.of(accounts) == [status(account_id) for account_id in accounts]
    assert [len(query.account_ids) for query in database.queries] == [2, 2, 1]
    await statuses.refresh(accounts)
    assert max(len(query.account_ids) for query in database.queries) == 2


async def test_a_status_is_read_again_when_it_changed(statuses: Statuses, database: Database) -> None:
    await statuses.of([A, B])
    suspended = status(A, 2, ServiceState.SUSPENDED)
    database.store(suspended)
    assert statuses.known(A) == status(A)
    await statuses.refresh([A])
    assert statuses.known(A) == suspended
    assert database.queries[-1].account_ids == [A]


async def test_of_the_accounts_that_changed_only_those_in_memory_are_read(
    statuses: Statuses, database: Database
) -> None:
    await statuses.refresh([A, B, UNKNOWN])
    assert database.queries == []
    await statuses.of([A])
    await statuses.refresh([A, B, UNKNOWN])
    assert [query.account_ids for query in database.queries] == [[A], [A]]


@pytest.mark.parametrize("known_before", [False, True])
async def test_a_look_up_under_way_when_a_change_is_heard_leaves_no_stale_status_behind(
    statuses: Statuses, database: Database, *, known_before: bool
) -> None:
    if known_before:
        await statuses.of([A])
    begun = len(database.queries)
    database.held = True
    look_up = asyncio.create_task(statuses.look_up([A]))
    await until(lambda: len(database.queries) == begun + 1)  # it has read the old status
    suspended = status(A, 2, ServiceState.SUSPENDED)
    database.store(suspended)
    refresh = asyncio.create_task(statuses.refresh([A]))  # the change is heard
    await asyncio.sleep(0)
    database.let_return(begun)
    await look_up
    await until(lambda: len(database.queries) == begun + 2)
    database.let_return(begun + 1)
    await refresh
    assert statuses.known(A) == suspended


async def test_a_look_up_that_waits_for_its_turn_when_a_change_is_heard_reads_the_change(
    statuses: Statuses, database: Database
) -> None:
    database.held = True
    first = asyncio.create_task(statuses.look_up([B]))
    await until(lambda: len(database.queries) == 1)
    second = asyncio.create_task(statuses.look_up([A]))
    await asyncio.sleep(0)
    suspended = status(A, 2, ServiceState.SUSPENDED)
    database.store(suspended)
    refresh = asyncio.create_task(statuses.refresh([A]))
    await asyncio.sleep(0)
    database.let_return(0)
    await until(lambda: len(database.queries) == 2)
    database.let_return(1)
    await asyncio.gather(first, second, refresh)
    assert statuses.known(A) == suspended


async def test_a_change_heard_in_the_middle_of_a_look_up_in_chunks_is_read_after_it(
    statuses: Statuses, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses_module, "ACCOUNTS_PER_LOOK_UP", 1)
    database.held = True
    look_up = asyncio.create_task(statuses.look_up([A, B]))
    await until(lambda: len(database.queries) == 1)
    (read_first,) = database.queries[0].account_ids
    database.let_return(0)
    await until(lambda: len(database.queries) == 2)
    suspended = status(read_first, 2, ServiceState.SUSPENDED)
    database.store(suspended)
    refresh = asyncio.create_task(statuses.refresh([read_first]))
    await asyncio.sleep(0)
    database.held = False
    database.let_return(1)
    await asyncio.gather(look_up, refresh)
    assert statuses.known(read_first) == suspended


async def test_of_two_statuses_the_newer_version_wins_in_whatever_order_they_come(
    statuses: Statuses, database: Database
) -> None:
    newer = status(A, 5, ServiceState.SUSPENDED)
    database.store(newer)
    await statuses.of([A])
    database.store(status(A, 4))  # as a replica that lags behind would answer
    assert await statuses.look_up([A]) == {A: newer}
    assert statuses.known(A) == newer


async def test_who_is_cancelled_does_not_take_the_answer_of_others_away(statuses: Statuses, database: Database) -> None:
    database.held = True
    first, second = asyncio.create_task(statuses.of([A])), asyncio.create_task(statuses.of([A, B]))
    await until(lambda: len(database.queries) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    database.let_return(0)
    assert await second == [status(A), status(B)]


async def test_a_look_up_nobody_waits_for_any_more_is_kept_all_the_same(statuses: Statuses, database: Database) -> None:
    database.held = True
    asked = asyncio.create_task(statuses.of([A]))
    await until(lambda: len(database.queries) == 1)
    asked.cancel()
    database.let_return(0)
    await until(lambda: statuses.known(A))


async def test_while_the_database_is_away_all_who_ask_are_told_and_asking_again_helps(
    statuses: Statuses, database: Database
) -> None:
    database.away = True
    answers = await asyncio.gather(statuses.of([A]), statuses.of([B]), return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailableError] * 2
    assert len(database.queries) == 1
    database.away = False
    assert await statuses.of([A, B]) == [status(A), status(B)]


async def test_what_is_in_memory_is_answered_while_the_database_is_away(statuses: Statuses, database: Database) -> None:
    await statuses.of([A])
    database.away = True
    assert await statuses.of([A]) == [status(A)]


async def test_memory_is_bounded_and_the_oldest_make_room(
    statuses: Statuses, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses_module, "STATUSES_MAX", 2)
    for account_id in (A, B, C):
        await statuses.of([account_id])
    assert sorted(statuses.known_accounts()) == [B, C]
    database.store(status(B, 2))
    await statuses.refresh([B])
    assert sorted(statuses.known_accounts()) == [B, C]
    assert await statuses.of([A, B, C]) == [status(A), status(B, 2), status(C)]


events = st.lists(
    st.tuples(st.sampled_from(["change", "hear", "look up", "let return"]), st.sampled_from([A, B])), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(events)
def test_in_whatever_order_things_happen_the_last_change_that_was_heard_is_known(
    drawn: list[tuple[str, AccountId]],
) -> None:
    async def happen() -> tuple[Statuses, Database]:
        database = Database(status(A), status(B))
        statuses = Statuses(database)
        database.held = True
        tasks: list[asyncio.Task[object]] = []
        for event, account_id in drawn:
            match event:
                case "change":
                    database.store(status(account_id, database.stored[account_id].version + 1))
                case "hear":
                    tasks.append(asyncio.create_task(statuses.refresh([account_id])))
                case "look up":
                    tasks.append(asyncio.create_task(statuses.look_up([account_id])))
                case _:
                    database.let_all_return()
            for _ in range(4):
                await asyncio.sleep(0)
        # Every change is heard in the end, while anything may still be under way.
        tasks.append(asyncio.create_task(statuses.refresh([A, B])))
        database.held = False
        database.let_all_return()
        await asyncio.gather(*tasks)
        return statuses, database

    statuses, database = asyncio.run(happen())
    for account_id in statuses.known_accounts():
        assert statuses.known(account_id) == database.stored[account_id]
