"""Replicas that record, gateways that call, the office that closes months, and a nemesis: all of it drawn by lot.

What runs is the service's own code, from the recorder down to the bytes of COPY, the folder, the seal, and the feed of
statuses; what it runs on is simulated.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from metering.access.feed import StatusFeed
from metering.access.statuses import Statuses
from metering.billing.months import BillingCalendar
from metering.errors import DatabaseUnavailableError, MeteringError, Reason, TransactionConflictError
from metering.model import AccountId, Month, RejectedCall
from metering.recording.batcher import BatcherLimits
from metering.recording.recorder import Recorder
from metering.recording.validation import BACK_MAX, CallColumns, CallFields
from metering.store.bills import BillStore
from metering.store.calls import CallStore
from tests.simulation import statuses as simulated
from tests.simulation.postgres import POISON, SimulatedDatabase, SimulatedPostgres, Trouble
from tests.simulation.virtual_time import START_S

if TYPE_CHECKING:
    from metering.store.database import Database

ZONE = "Asia/Shanghai"
START = datetime(2026, 11, 30, 15, 59, 45, tzinfo=UTC)
"""A quarter of a minute before the month turns in the billing time zone."""
FOLD_INTERVAL_S = 1.0
QUIET_S = 60.0
"""So long after the last trouble is everything delivered, at the latest."""
WELL_WITHIN_S = 10.0
"""So long after the last trouble the service is well again, whatever it was."""
STRANGER = "stranger"
"""An account that is not activated."""
FRESH_WITHIN_S = 1.0
ACCOUNTS_OF_A_BATCH = 10


@dataclass(frozen=True)
class Plan:
    """How much of what happens."""

    seed: int
    seconds: float = 120.0
    """That gateways call for, simulated."""
    replicas: int = 3
    gateways: int = 8
    accounts: int = 100
    batch_max: int = 200
    trouble: bool = True


@dataclass
class Tally:
    """What happened."""

    sent: dict[tuple[str, bytes], CallFields] = field(default_factory=dict)
    """By account and call_id: what gateways have sent at least once, and that may be recorded."""
    lately: deque[CallFields] = field(default_factory=lambda: deque(maxlen=1_000))
    """The last of them."""
    acknowledged: set[tuple[str, bytes]] = field(default_factory=set)
    new: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    """Acknowledged as not seen before, by single calls."""
    billing_months: dict[tuple[str, bytes], Month] = field(default_factory=dict)
    accepted: int = 0
    """As the batches' answers say."""
    kept_rejected: set[tuple[str, str]] = field(default_factory=set)
    deliveries: int = 0
    retries: int = 0
    crashes: int = 0


class VirtualClock:
    """The replica's clock: it goes with the loop's, a little fast or slow."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def now(self) -> datetime:
        passed_s = asyncio.get_running_loop().time() - START_S + self._ahead_s
        return START + timedelta(seconds=passed_s)


class _NoMetrics:
    """Takes whatever is told."""

    def __getattr__(self, _name: str) -> Any:
        return self

    def __call__(self, *_: object) -> None:
        pass


class SimulatedReplica:
    """One worker of the service. When it crashes, all that it had in memory is gone."""

    def __init__(self, world: "World") -> None:
        chance = world.chance
        database = cast("Database", SimulatedDatabase(world.postgres))
        self.calendar = BillingCalendar.of_zone(ZONE)
        clock = VirtualClock(chance.uniform(-2, 2))
        today = self.calendar.today(START)
        self.calendar.prepare(today - BACK_MAX - timedelta(days=2), today + timedelta(days=7))
        self.calls = CallStore(database)
        self.bills = BillStore(database)
        view = simulated.Replica(world.accounts)
        self.statuses = Statuses(view)
        self.feed = StatusFeed(view, view, self.statuses)
        limits = BatcherLimits(
            queue_items_max=world.queue_items_max,
            batch_items_max=chance.choice((50, 500, 10_000)),
            committers=chance.choice((1, 2, 4)),
            spacing_s=chance.choice((0.0, 0.01)),
        )
        self.limits = limits
        metrics = cast("Any", _NoMetrics())
        self.recorder = Recorder(
            self.calls, world, self.statuses, self.calendar, clock, limits, metrics, busy=chance.random
        )
        self._tasks = [
            asyncio.create_task(self.recorder.calls.run(), name="calls"),
            asyncio.create_task(self.recorder.rejects.run(), name="rejects"),
            asyncio.create_task(self.feed.run(), name="feed"),
            asyncio.create_task(self._fold(), name="folder"),
        ]
        self._requests: dict[asyncio.Task[Any], None] = {}
        self.alive = True

    async def serve(self, request: Any, deadline_s: float) -> Any:
        """Answer a request within the caller's deadline; who is gone or crashed answers nothing."""
        task = asyncio.ensure_future(request)
        self._requests[task] = None
        try:
            done, _ = await asyncio.wait([task], timeout=deadline_s)
        finally:
            self._requests.pop(task, None)
            if not task.done():
                task.cancel()
        if not done or task.cancelled():
            raise MeteringError(Reason.DATABASE_UNAVAILABLE, "simulated: no answer")
        return task.result()

    async def _fold(self) -> None:
        while True:
            with suppress(DatabaseUnavailableError, TransactionConflictError):
                await self.calls.fold(1_000)
            await asyncio.sleep(FOLD_INTERVAL_S)

    async def crash(self) -> None:
        self.alive = False
        for task in (*self._tasks, *self._requests):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what ended a task that never should have ended."""
        for task in self._tasks:
            if self.alive and task.done():
                task.result()
                raise AssertionError(f"{task.get_name()} has ended")


class World:
    """Everything there is, and how it comes to pass."""

    def __init__(self, plan: Plan, *, open_month_locks: bool = True) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.postgres = SimulatedPostgres(self.chance, open_month_locks=open_month_locks)
        self.account_ids = [f"account-{number}" for number in range(plan.accounts)]
        self.accounts = simulated.SimulatedAccounts(self.postgres, self.account_ids)
        self.queue_items_max = self.chance.choice((plan.batch_max, 5_000))
        self.tally = Tally()
        self.seen: dict[AccountId, int] = {}
        """The newest version that the watcher was told, by account."""
        self.replicas: list[SimulatedReplica] = []
        self._calling = True

    async def reject(self, calls: Sequence[RejectedCall]) -> int:
        """Keep rejected calls: `RejectBook` of metering.recording."""
        await self.postgres.round_trip()
        self.tally.kept_rejected.update((call.account_id, call.call_id) for call in calls)
        return 0

    async def run(self) -> None:
        """Let it all happen; then wait until all is quiet, and everything delivered."""
        self.replicas = [SimulatedReplica(self) for _ in range(self.plan.replicas)]
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            gateways = [tasks.create_task(self._gateway(number)) for number in range(self.plan.gateways)]
            others = [self._office(), self._change_statuses(), self._look_at_statuses()]
            if self.plan.trouble:
                others.append(self._nemesis())
            background = [tasks.create_task(each) for each in others]
            await asyncio.sleep(self.plan.seconds)
            self._calling = False
            background.pop().cancel() if self.plan.trouble else None
            await self._mend()
            mended_at = loop.time()
            watch = tasks.create_task(self._watch(self.replicas[0]))
            _, late = await asyncio.wait(gateways, timeout=QUIET_S)
            if late:
                raise self.postgres.broken(
                    f"{len(late)} gateways have not delivered their calls {QUIET_S:.0f} s after the last trouble"
                )
            await asyncio.sleep(max(0.0, mended_at + WELL_WITHIN_S - loop.time()))
            background[1].cancel()  # no more changes
            await asyncio.sleep(FRESH_WITHIN_S)
            while self.postgres.deltas and loop.time() < mended_at + QUIET_S:
                await asyncio.sleep(FOLD_INTERVAL_S)
            self._check_fresh()
            for each in (*background, watch):
                each.cancel()
            await asyncio.gather(*(replica.crash() for replica in self.replicas))

    async def _mend(self) -> None:
        self.postgres.trouble = Trouble()
        for number, replica in enumerate(self.replicas):
            if not replica.alive:
                self.replicas[number] = SimulatedReplica(self)

    # Gateways --------------------------------------------------------------------------------------------------------

    async def _gateway(self, number: int) -> None:
        chance = self.chance
        clock = VirtualClock(chance.uniform(-1, 1))
        while self._calling:
            await asyncio.sleep(chance.expovariate(2.0))
            size = 1 if chance.random() < 0.5 else chance.randint(1, self.plan.batch_max)
            callers = chance.sample(self.account_ids, min(size, ACCOUNTS_OF_A_BATCH))
            calls = [self._call(clock.now(), callers) for _ in range(size)]
            if size == 1 and chance.random() < 0.3 and self.tally.billing_months:
                calls.append(self.tally.sent[chance.choice(list(self.tally.billing_months))])
            if chance.random() < 0.1 and self.tally.lately:
                calls.append(chance.choice(self.tally.lately))  # it was sent before
            if chance.random() < 0.05:
                calls.append(calls[0])
            deliveries = 2 if chance.random() < 0.05 else 1
            await asyncio.gather(*(self._deliver(calls, single=size == 1) for _ in range(deliveries)))

    def _call(self, now: datetime, callers: Sequence[str]) -> CallFields:
        chance = self.chance
        kind = chance.random()
        back = timedelta(days=chance.uniform(0, 40)) if kind < 0.02 else timedelta(seconds=chance.expovariate(1.0))
        at = now - back
        account_id = STRANGER if chance.random() < 0.002 else chance.choice(callers)
        api = POISON if chance.random() < 0.0005 else chance.choice(("DetectAuth", "CompareFace"))
        call_id = UUID(int=chance.getrandbits(128), version=4)
        micros = round(at.timestamp() * 1e6)
        fields = (account_id, api, str(call_id), micros // 1_000_000, micros % 1_000_000 * 1_000, "")
        if account_id != STRANGER and api != POISON:
            self.tally.sent[account_id, call_id.bytes] = fields
            self.tally.lately.append(fields)
        return fields

    async def _deliver(self, calls: Sequence[CallFields], *, single: bool) -> None:
        """Send calls until they are acknowledged, each time to any replica."""
        pause_s = 0.05
        while True:
            self.tally.deliveries += 1
            replica = self.chance.choice([each for each in self.replicas if each.alive] or self.replicas)
            deadline_s = self.chance.choice((0.2, 5.0, 30.0)) if self._calling else 30.0
            try:
                if single:
                    for each in calls:
                        await self._deliver_one(replica, each, deadline_s)
                else:
                    await self._deliver_batch(replica, calls, deadline_s)
            except MeteringError as error:
                if error.reason not in _RETRIED:
                    raise
                self.tally.retries += 1
                # Full jitter.
                await asyncio.sleep(self.chance.uniform(0, pause_s))
                pause_s = min(2 * pause_s, 2.0)
            else:
                return

    async def _deliver_one(self, replica: SimulatedReplica, call: CallFields, deadline_s: float) -> None:
        key = _key(call)
        try:
            receipt, _ = await replica.serve(replica.recorder.record(call, deadline_s), deadline_s)
        except MeteringError as error:
            if error.reason not in _REJECTED:
                raise
            self._check_rejected(call, error)
            return
        self._acknowledge(call)
        self.tally.new[key] += not receipt.duplicate
        if self.tally.billing_months.setdefault(key, receipt.billing_month) != receipt.billing_month:
            raise self.postgres.broken(f"a call is said to stand on the bills of two months: {call}")

    async def _deliver_batch(self, replica: SimulatedReplica, calls: Sequence[CallFields], deadline_s: float) -> None:
        result = await replica.serve(replica.recorder.record_batch(CallColumns.of(calls), deadline_s), deadline_s)
        rejections = dict(result.rejections)
        if result.accepted + result.duplicates + len(rejections) != len(calls):
            raise self.postgres.broken(f"{len(calls)} calls sent, {result} answered")
        for place, call in enumerate(calls):
            if place in rejections:
                self._check_rejected(call, rejections[place])
            else:
                self._acknowledge(call)
        self.tally.accepted += result.accepted

    def _acknowledge(self, call: CallFields) -> None:
        key = _key(call)
        if key not in self.tally.sent:
            raise self.postgres.broken(f"a call that cannot be recorded is acknowledged: {call}")
        self.tally.acknowledged.add(key)
        calendar = self.replicas[0].calendar
        day, _ = calendar.day_of(cast("int", call[3]) * 1_000_000 + call[4] // 1_000)
        if (day, *key) not in self.postgres.rows:
            raise self.postgres.broken(f"P1 durable: acknowledged, and not committed: {call}")

    def _check_rejected(self, call: CallFields, error: MeteringError) -> None:
        key = _key(call)
        if key in self.tally.sent:
            raise self.postgres.broken(f"rejected without a reason: {call}: {error}")
        if (call[0], call[2]) not in self.tally.kept_rejected:
            raise self.postgres.broken(f"rejected, and not kept: {call}")

    # The others ------------------------------------------------------------------------------------------------------

    async def _office(self) -> None:
        """Close months once they have ended, now and then one that is closed."""
        chance, clock = self.chance, VirtualClock(0)
        while True:
            await asyncio.sleep(chance.uniform(1, 10))
            replica = chance.choice(self.replicas)
            today = replica.calendar.today(clock.now())
            month = Month((today.replace(day=1) - timedelta(days=chance.choice((1, 1, 40)))).replace(day=1))
            if month < today.replace(day=1):
                try:
                    await replica.bills.seal(month, clock.now())
                except (DatabaseUnavailableError, TransactionConflictError):
                    continue

    async def _change_statuses(self) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(20.0))
            self.accounts.change(AccountId(self.chance.choice(self.account_ids)))

    async def _look_at_statuses(self) -> None:
        """See that no replica takes an old status for a fresh one."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.chance.expovariate(5.0))
            for replica in self.replicas:
                age_s = replica.feed.age_s
                for account_id in self.accounts.present:
                    status = replica.statuses.known(account_id)
                    then = self.accounts.version_at(account_id, loop.time() - age_s)
                    if status and status.version < then:
                        raise self.postgres.broken(
                            f"P7 fresh: {account_id} is said to be at version {status.version}, which is "
                            f"{age_s:.2f} s old at the most; it was at {then} then"
                        )

    async def _watch(self, replica: SimulatedReplica) -> None:
        async for news in replica.feed.watch([AccountId(each) for each in self.account_ids]):
            for status in news:
                self.seen[status.account_id] = status.version

    def _check_fresh(self) -> None:
        for replica in self.replicas:
            replica.check()
            if replica.feed.age_s > FRESH_WITHIN_S:
                raise self.postgres.broken(f"P7 fresh: a replica's statuses are {replica.feed.age_s:.1f} s old")
        for account_id, status in self.accounts.present.items():
            if self.seen.get(account_id) != status.version:
                raise self.postgres.broken(
                    f"P7 fresh: the watcher was told of version {self.seen.get(account_id)} of {account_id}, "
                    f"not of {status.version}"
                )

    async def _nemesis(self) -> None:
        """Make trouble, of one kind or several, for a while; then have none for a while."""
        chance = self.chance
        while True:
            await asyncio.sleep(chance.uniform(1, 8))
            self.postgres.trouble = Trouble(
                statement_fails=chance.choice((0, 0, 0.02, 0.2)),
                commit_fails=chance.choice((0, 0, 0.05, 0.3)),
                commit_answer_lost=chance.choice((0, 0.05, 0.3)),
                conflict=chance.choice((0, 0, 0.05, 0.3)),
                slow=chance.choice((0, 0.01, 0.1, 0.3)),
                down=chance.random() < 0.1,
            )
            if chance.random() < 0.5:
                await self._crash_one()
            for listener in self.accounts.listeners:
                listener.broken |= chance.random() < 0.3
            await asyncio.sleep(chance.uniform(0.5, 10))
            await self._mend()

    async def _crash_one(self) -> None:
        replica = self.chance.choice([each for each in self.replicas if each.alive])
        self.tally.crashes += 1
        await replica.crash()
        await asyncio.sleep(self.chance.uniform(0.1, 3))
        # In the middle of whatever trouble there is.
        if replica in self.replicas:
            self.replicas[self.replicas.index(replica)] = SimulatedReplica(self)


def _key(call: CallFields) -> tuple[str, bytes]:
    return call[0], bytes.fromhex(call[2].replace("-", ""))


_RETRIED = {Reason.DATABASE_UNAVAILABLE, Reason.QUEUE_FULL, Reason.SHUTTING_DOWN}
_REJECTED = {Reason.ACCOUNT_NOT_FOUND, Reason.UNRECORDABLE}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let all chance that is not drawn from a World come out the same, too."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
