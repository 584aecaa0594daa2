"""What PostgreSQL does with the queries of recording, in memory: transactions, locks, keys, and every way to fail.

A transaction's writes are seen by nobody until it commits, all at once. Who writes a key that another transaction has
just written waits for that one's end. A statement can be late; it can fail before it did anything; a commit can fail
before, or its answer can be lost: then it happens a little later all the same, when the caller already tries again.
"""

import asyncio
import random
import struct
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from metering.billing.months import next_month
from metering.errors import DatabaseUnavailableError, TransactionConflictError
from metering.model import Month, month_number
from metering.store.sql import load_queries

_EPOCH = date(2000, 1, 1)
_SIGNATURE_LENGTH = 19
_LENGTH = struct.Struct(">i")
POISON = "Poison"
"""An api that the database refuses, as it might a character that it does not know."""


class Key(NamedTuple):
    """Of a call."""

    occurred_on: date
    account_id: str
    call_id: bytes


class Count(NamedTuple):
    """What calls are counted by."""

    account_id: str
    billing_month: date
    occurred_on: date
    api: str
    result_code: str


@dataclass
class Trouble:
    """How often something goes wrong, of all times that it could; and how long a round trip takes."""

    statement_fails: float = 0.0
    commit_fails: float = 0.0
    commit_answer_lost: float = 0.0
    conflict: float = 0.0
    slow: float = 0.0
    down: bool = False
    round_trip_s: tuple[float, float] = (0.0005, 0.008)
    slow_s: tuple[float, float] = (0.05, 3.0)


class BrokenPromiseError(AssertionError):
    """What must not happen has happened."""


@dataclass(eq=False)
class Transaction:
    """One that is under way."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    rows: dict[Key, Count] = field(default_factory=dict)
    deltas: list[tuple[Count, int]] = field(default_factory=list)
    taken_deltas: list[int] = field(default_factory=list)
    daily: Counter[Count] = field(default_factory=Counter)
    sealed: list[Month] = field(default_factory=list)
    shared: set[int] = field(default_factory=set)
    exclusive: set[int] = field(default_factory=set)
    folds: bool = False
    waits_for: "Transaction | None" = None


class SimulatedPostgres:
    """The database that all replicas share. Its books are checked at every commit."""

    def __init__(self, chance: random.Random, *, open_month_locks: bool = True) -> None:
        self.chance = chance
        self.trouble = Trouble()
        self.rows: dict[Key, Count] = {}
        self.deltas: dict[int, tuple[Count, int]] = {}
        self.daily: Counter[Count] = Counter()
        self.closed: dict[Month, int] = {}
        """Closed months, and how many calls they had then."""
        self.partitions: set[date] = set()
        self.commits = 0
        self.broken_promises: list[str] = []
        self._open_month_locks = open_month_locks
        self._next_delta = 0
        self._writing: dict[Key, Transaction] = {}
        self._locks: defaultdict[int, list[Transaction]] = defaultdict(list)
        self._lock_queue: defaultdict[int, list[tuple[Transaction, bool]]] = defaultdict(list)
        self._changed = asyncio.Event()
        self._folding: Transaction | None = None
        self._usage: Counter[Count] = Counter()
        """By the counts."""
        self._made: Counter[Count] = Counter()
        """By the rows."""
        self._of_month: Counter[date] = Counter()

    def broken(self, what: str) -> BrokenPromiseError:
        """Note that a promise was broken; return the error to raise, which somebody may swallow."""
        self.broken_promises.append(what)
        return BrokenPromiseError(what)

    async def round_trip(self) -> None:
        trouble, chance = self.trouble, self.chance
        slow = chance.random() < trouble.slow
        await asyncio.sleep(chance.uniform(*(trouble.slow_s if slow else trouble.round_trip_s)))
        if self.trouble.down or chance.random() < trouble.statement_fails:
            raise DatabaseUnavailableError("simulated: the connection broke")

    def usage_of(self, month: date) -> int:
        """Return how many calls stand on the bills of a month, by the rows."""
        return self._of_month[month]

    # Locks -----------------------------------------------------------------------------------------------------------

    async def lock(self, transaction: Transaction, number: int, *, exclusive: bool) -> None:
        """Take an advisory lock until the transaction ends; who came first is served first."""
        if number in transaction.exclusive or (number in transaction.shared and not exclusive):
            return
        queue = self._lock_queue[number]
        mine = (transaction, exclusive)
        queue.append(mine)
        try:
            while not self._is_free(number, mine):
                self._changed.clear()
                await self._changed.wait()
        finally:
            queue.remove(mine)
            self._changed.set()
        self._locks[number].append(transaction)
        (transaction.exclusive if exclusive else transaction.shared).add(number)

    def _is_free(self, number: int, mine: tuple[Transaction, bool]) -> bool:
        transaction, exclusive = mine
        holders = [each for each in self._locks[number] if each is not transaction]
        ahead = self._lock_queue[number][: self._lock_queue[number].index(mine)]
        if exclusive:
            return not holders and not ahead
        return not any(number in each.exclusive for each in holders) and not any(wants for _, wants in ahead)

    # Statements ------------------------------------------------------------------------------------------------------

    async def open_month(self, transaction: Transaction, month: Month) -> Month:
        candidate = month
        while True:
            if self._open_month_locks:
                await self.lock(transaction, month_number(candidate), exclusive=False)
            if candidate not in self.closed:
                return candidate
            candidate = next_month(candidate)

    async def write(self, transaction: Transaction, key: Key, count: Count) -> bool:
        """Write a row; False: there is one with its key."""
        if count.api == POISON:
            raise asyncpg.DataError("simulated: a value that the database refuses")
        if key.occurred_on not in self.partitions:
            raise self.broken(f"a call is written to a day without a partition, {key.occurred_on}")
        while (other := self._writing.get(key)) is not None and other is not transaction:
            transaction.waits_for = other
            _look_for_a_deadlock(transaction)
            await other.ended.wait()
            transaction.waits_for = None
        if key in self.rows or key in transaction.rows:
            return False
        self._writing[key] = transaction
        transaction.rows[key] = count
        return True

    def fold(self, transaction: Transaction, deltas_max: int) -> int:
        numbers = list(self.deltas)[:deltas_max]
        transaction.taken_deltas = numbers
        for number in numbers:
            count, calls = self.deltas[number]
            transaction.daily[count] += calls
        return len(numbers)

    def try_lock_fold(self, transaction: Transaction) -> bool:
        if self._folding is not None:
            return False
        self._folding, transaction.folds = transaction, True
        return True

    # The end of a transaction ----------------------------------------------------------------------------------------

    async def commit(self, transaction: Transaction) -> None:
        trouble, chance = self.trouble, self.chance
        await asyncio.sleep(chance.uniform(*trouble.round_trip_s))
        if trouble.down or chance.random() < trouble.commit_fails:
            self.roll_back(transaction)
            raise DatabaseUnavailableError("simulated: the connection broke before the commit")
        if chance.random() < trouble.conflict:
            self.roll_back(transaction)
            raise TransactionConflictError("simulated: could not serialize access")
        if chance.random() < trouble.commit_answer_lost:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.2), self._apply, transaction)
            raise DatabaseUnavailableError("simulated: the connection broke during the commit")
        self._apply(transaction)

    def roll_back(self, transaction: Transaction) -> None:
        self._end(transaction)

    def _apply(self, transaction: Transaction) -> None:
        self.commits += 1
        touched: set[Count] = set()
        for month in transaction.sealed:
            self.closed.setdefault(month, self._of_month[month])
        for key, count in transaction.rows.items():
            if count.billing_month in self.closed:
                raise self.broken(
                    f"P3 sealed: a call was put on the bill of {count.billing_month:%Y-%m}, which is closed"
                )
            self.rows[key] = count
            self._made[count] += 1
            self._of_month[count.billing_month] += 1
            touched.add(count)
        for count, calls in transaction.deltas:
            self.deltas[self._next_delta] = (count, calls)
            self._next_delta += 1
            self._usage[count] += calls
            touched.add(count)
        for number in transaction.taken_deltas:
            count, calls = self.deltas.pop(number)
            self._usage[count] -= calls
            touched.add(count)
        for count, calls in transaction.daily.items():
            self.daily[count] += calls
            self._usage[count] += calls
            touched.add(count)
        self._end(transaction)
        for count in touched:
            if self._usage[count] != self._made[count]:
                raise self.broken(
                    f"P4 accounted: {self._made[count]} calls are counted as {self._usage[count]}: {count}"
                )

    def _end(self, transaction: Transaction) -> None:
        for key in transaction.rows:
            self._writing.pop(key, None)
        for number in transaction.shared | transaction.exclusive:
            self._locks[number].remove(transaction)
        if transaction.folds:
            self._folding = None
        transaction.ended.set()
        self._changed.set()


def _look_for_a_deadlock(transaction: Transaction) -> None:
    each: Transaction | None = transaction.waits_for
    while each is not None:
        if each is transaction:
            transaction.waits_for = None
            raise TransactionConflictError("simulated: deadlock detected")
        each = each.waits_for


class SimulatedDatabase:
    """The database as a replica's stores see it: the interface of `metering.store.database.Database` that they use."""

    def __init__(self, postgres: SimulatedPostgres) -> None:
        self._postgres = postgres
        self.sql: Mapping[str, str] = load_queries()
        self._names = {text: name for name, text in self.sql.items()}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["_Connection"]:
        transaction = Transaction()
        try:
            yield _Connection(self._postgres, transaction, self._names)
        except BaseException:
            self._postgres.roll_back(transaction)
            raise
        # The server ends what it was told to commit, whatever becomes of who told it.
        await asyncio.shield(asyncio.ensure_future(self._postgres.commit(transaction)))

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        async with self.transaction() as connection:
            return await connection.fetch(self.sql[query], *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        async with self.transaction() as connection:
            return (await connection.fetch(self.sql[query], *args))[0]


class _Connection:
    """A transaction's connection."""

    def __init__(self, postgres: SimulatedPostgres, transaction: Transaction, names: Mapping[str, str]) -> None:
        self._postgres = postgres
        self._transaction = transaction
        self._names = names
        self._do: dict[str, Callable[..., Any]] = {
            "open_months": self._open_months,
            "record_calls": self._record_calls,
            "billing_months_of_calls": self._billing_months_of_calls,
            "calls_partitions": self._calls_partitions,
            "ensure_calls_partition": self._ensure_calls_partition,
            "tell_of_calls_partitions": self._tell_of_calls_partitions,
            "lock_fold": self._lock_fold,
            "fold_usage": self._fold_usage,
            "lock_month": self._lock_month,
            "seal_month": self._seal_month,
        }

    async def fetch(self, query: str, *args: Any) -> Any:
        await self._postgres.round_trip()
        return await self._do[self._names[query]](*args)

    execute = fetchval = fetch

    async def copy_to_table(self, table: str, *, source: Any, columns: Sequence[str], format: str) -> None:  # noqa: A002
        await self._postgres.round_trip()
        assert format == "binary"
        for own, count in _copied_rows(b"".join([each async for each in source]), columns):
            if table == "usage_deltas":
                self._transaction.deltas.append((count, own[0]))
            elif not await self._postgres.write(
                self._transaction, Key(count.occurred_on, count.account_id, own[0]), count
            ):
                raise asyncpg.UniqueViolationError("simulated: duplicate key value")

    async def _open_months(self, months: list[Month]) -> list[dict[str, Month]]:
        opened = [await self._postgres.open_month(self._transaction, month) for month in months]
        return [{"month": month, "billing_month": billing} for month, billing in zip(months, opened, strict=True)]

    async def _record_calls(self, months: list[Month], *columns: Any) -> list[dict[str, Any]]:
        opened = {row["month"]: row["billing_month"] for row in await self._open_months(months)}
        new: list[Key] = []
        counts: Counter[Count] = Counter()
        # In the order that the query sorts by.
        order = sorted(zip(*columns, strict=True), key=lambda row: (row[1], row[4], row[5], row[0], row[2]))
        for day, account_id, call_id, _, api, result_code, month in order:
            key = Key(day, account_id, bytes.fromhex(call_id))
            count = Count(account_id, opened[month], day, api, result_code)
            if await self._postgres.write(self._transaction, key, count):
                new.append(key)
                counts[count] += 1
        self._transaction.deltas.extend(counts.items())
        all_new = len(new) == len(columns[0])
        return [
            {
                "months": months,
                "billing_months": [opened[month] for month in months],
                "new_calls": len(new),
                "occurred_on": None if all_new else [key.occurred_on for key in new],
                "account_id": None if all_new else [key.account_id for key in new],
                "call_id": None if all_new else [UUID(bytes=key.call_id) for key in new],
            }
        ]

    async def _billing_months_of_calls(self, *columns: Any) -> list[dict[str, Any]]:
        keys = [Key(day, account_id, bytes.fromhex(call_id)) for day, account_id, call_id in zip(*columns, strict=True)]
        return [
            {
                **key._asdict(),
                "call_id": UUID(bytes=key.call_id),
                "billing_month": self._postgres.rows[key].billing_month,
            }
            for key in keys
            if key in self._postgres.rows
        ]

    async def _calls_partitions(self) -> list[dict[str, date]]:
        return [{"day": day} for day in self._postgres.partitions]

    async def _ensure_calls_partition(self, day: date) -> list[dict[str, bool]]:
        made = day not in self._postgres.partitions
        self._postgres.partitions.add(day)
        return [{"made": made}]

    async def _tell_of_calls_partitions(self) -> list[dict[str, None]]:
        return [{"tell_of_calls_partitions": None}]  # all sessions know all partitions here

    async def _lock_fold(self) -> bool:
        return self._postgres.try_lock_fold(self._transaction)

    async def _fold_usage(self, deltas_max: int) -> int:
        return self._postgres.fold(self._transaction, deltas_max)

    async def _lock_month(self, number: int) -> None:
        await self._postgres.lock(self._transaction, number, exclusive=True)

    async def _seal_month(self, month: Month, _now: object) -> bool | None:
        if month in self._postgres.closed:
            return None
        self._transaction.sealed.append(month)
        return True


def _copied_rows(data: bytes, columns: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], Count]]:
    """Read PostgreSQL's binary COPY format: of each row what is its own, and what calls are counted by."""
    own = len(columns) - len(Count._fields)
    at, before, count = _SIGNATURE_LENGTH, b"", None
    while (fields := struct.unpack_from(">h", data, at)[0]) >= 0:
        assert fields == len(columns)
        values, at = _fields(data, at + 2, columns[:own])
        # Rows of a kind follow each other and end alike.
        if count is None or not data.startswith(before, at):
            start = at
            texts, at = _fields(data, at, columns[own:])
            named = dict(zip(columns[own:], texts, strict=True))
            count, before = Count(*(named[name] for name in Count._fields)), data[start:at]
        else:
            at += len(before)
        yield values, count
    assert at + 2 == len(data)


def _fields(data: bytes, at: int, names: Sequence[str]) -> tuple[tuple[Any, ...], int]:
    values = []
    for name in names:
        (length,) = _LENGTH.unpack_from(data, at)
        values.append(_READ.get(name, bytes.decode)(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(values), at


def _day(value: bytes) -> date:
    return _EPOCH + timedelta(days=struct.unpack(">i", value)[0])


def _number(value: bytes) -> int:
    number: int = struct.unpack(">q", value)[0]
    return number


_READ: Mapping[str, Callable[[bytes], Any]] = {
    "call_id": bytes,
    "occurred_at": _number,
    "calls": _number,
    "occurred_on": _day,
    "billing_month": _day,
}
