"""From what was sent to a committed call, with a call book in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing.months import BillingCalendar
from metering.errors import DatabaseUnavailableError, MeteringError, Reason, RowRefusedError
from metering.model import (
    EPOCH,
    AccountId,
    Call,
    CallKey,
    Money,
    Month,
    Receipt,
    RejectedCall,
    ServiceState,
    ServiceStatus,
)
from metering.recording.batcher import BatcherLimits, BatcherMetrics
from metering.recording.recorder import Recorded, RecordedBatch, Recorder
from metering.recording.validation import CallColumns, CallFields
from tests.support.service import FakeClock

NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
NOVEMBER, DECEMBER = Month(date(2026, 11, 1)), Month(date(2026, 12, 1))
LONG_S = 30.0
UNRECORDABLE_API = "Unrecordable"
"""The call book refuses calls of this api."""


class BatchCounts:
    def committed(self, items: int, seconds: float) -> None:
        pass

    def failed(self) -> None:
        pass


@dataclass
class Metrics:
    """What recording told of itself."""

    calls: BatcherMetrics = field(default_factory=BatchCounts)
    rejects: BatcherMetrics = field(default_factory=BatchCounts)
    counts: dict[str, int] = field(default_factory=dict)

    def recorded(self, new: int, duplicates: int, carried: int) -> None:
        for name, number in (("new", new), ("duplicates", duplicates), ("carried", carried)):
            self.counts[name] = self.counts.get(name, 0) + number

    def rejected(self, reason: str, calls: int) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + calls

    def dropped(self, calls: int) -> None:
        self.counts["dropped"] = self.counts.get("dropped", 0) + calls


@dataclass
class Book:
    """Calls in memory."""

    calls: dict[CallKey, Call] = field(default_factory=dict)
    rejected: list[RejectedCall] = field(default_factory=list)
    rejected_max: int = 1_000
    closed: frozenset[Month] = frozenset()
    refuses_rejected: bool = False
    failures: list[Exception] = field(default_factory=list)

    async def record(self, calls: Sequence[Call]) -> Sequence[Receipt]:
        if self.failures:
            raise self.failures.pop(0)
        if any(call.api == UNRECORDABLE_API for call in calls):
            raise RowRefusedError("value out of range")
        receipts = []
        for call in calls:
            billing_month = DECEMBER if call.month in self.closed else call.month
            receipts.append(Receipt(call.key in self.calls, billing_month))
            self.calls.setdefault(call.key, call)
        return receipts

    async def reject(self, calls: Sequence[RejectedCall]) -> int:
        if self.refuses_rejected:
            raise RowRefusedError("value out of range, here too")
        room = max(0, self.rejected_max - len(self.rejected))
        self.rejected.extend(calls[:room])
        return len(calls) - len(calls[:room])


def status_of(name: str, state: ServiceState = ServiceState.ACTIVE, version: int = 1) -> ServiceStatus:
    return ServiceStatus(AccountId(name), state, "", Money(Decimal(0), "CNY"), version)


@dataclass
class Statuses:
    """Statuses, in memory or only where they are looked up."""

    in_memory: dict[AccountId, ServiceStatus] = field(default_factory=dict)
    stored: dict[AccountId, ServiceStatus] = field(default_factory=dict)
    away: bool = False
    look_ups: list[list[AccountId]] = field(default_factory=list)

    def add(self, *statuses: ServiceStatus, known: bool = True) -> None:
        (self.in_memory if known else self.stored).update({status.account_id: status for status in statuses})

    def known(self, account_id: AccountId) -> ServiceStatus | None:
        return self.in_memory.get(account_id)

    def unknown(self, account_ids: set[AccountId]) -> set[AccountId]:
        return {account_id for account_id in account_ids if self.known(account_id) is None}

    def not_active(self, account_ids: set[AccountId]) -> list[ServiceStatus]:
        found = [status for account_id in account_ids if (status := self.known(account_id)) is not None]
        return [status for status in found if status.state is not ServiceState.ACTIVE]

    async def look_up(self, account_ids: Sequence[AccountId]) -> dict[AccountId, ServiceStatus]:
        self.look_ups.append(sorted(account_ids))
        await asyncio.sleep(0)
        if self.away:
            raise DatabaseUnavailableError("away")
        self.in_memory.update({each: self.stored[each] for each in account_ids if each in self.stored})
        return {each: self.stored[each] for each in account_ids if each in self.stored}


class Desk:
    """A recorder with all that it needs."""

    def __init__(self) -> None:
        self.book, self.statuses, self.metrics, self.clock = Book(), Statuses(), Metrics(), FakeClock(NOW)
        self.statuses.add(status_of("active"), status_of("suspended", ServiceState.SUSPENDED))
        self.statuses.add(status_of("not-yet-seen"), known=False)
        limits = BatcherLimits(queue_items_max=1_000, batch_items_max=100, committers=1, spacing_s=0)
        calendar = BillingCalendar.of_zone("Asia/Shanghai")
        self.recorder = Recorder(
            self.book, self.book, self.statuses, calendar, self.clock, limits, self.metrics, busy=lambda: 0.0
        )

    async def record(self, sent: CallFields) -> Recorded:
        return await self.recorder.record(sent, LONG_S)

    async def record_batch(self, *sent: CallFields) -> RecordedBatch:
        return await self.recorder.record_batch(CallColumns.of(sent), LONG_S)


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with asyncio.TaskGroup() as tasks:
        for batcher in (desk.recorder.calls, desk.recorder.rejects):
            tasks.create_task(batcher.run())
        yield desk
        desk.recorder.calls.drain()
        desk.recorder.rejects.drain()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk() as desk:
        yield desk


def call(
    account_id: str = "active",
    *,
    api: str = "DetectAuth",
    at: datetime = NOW,
    call_id: str | UUID | None = None,
    result_code: str = "",
) -> CallFields:
    micros = (at - EPOCH) // timedelta(microseconds=1)
    return account_id, api, str(call_id or uuid4()), micros // 10**6, micros % 10**6 * 1000, result_code


async def test_a_recorded_call_is_answered_with_its_receipt_and_the_status_of_its_account(desk: Desk) -> None:
    recorded = await desk.record(call())
    assert recorded == Recorded(Receipt(False, NOVEMBER), status_of("active"))
    (kept,) = desk.book.calls.values()
    assert (kept.account_id, kept.api, kept.occurred_at) == ("active", "DetectAuth", NOW)
    assert desk.metrics.counts == {"new": 1, "duplicates": 0, "carried": 0}


async def test_a_call_delivered_twice_is_counted_once(desk: Desk) -> None:
    sent = call()
    assert not (await desk.record(sent)).receipt.duplicate
    assert (await desk.record(sent)).receipt.duplicate
    assert len(desk.book.calls) == 1
    assert desk.metrics.counts == {"new": 1, "duplicates": 1, "carried": 0}


async def test_a_call_of_a_suspended_account_is_recorded_and_answered_with_suspended(desk: Desk) -> None:
    recorded = await desk.record(call("suspended"))
    assert recorded.status.state is ServiceState.SUSPENDED
    assert len(desk.book.calls) == 1


async def test_an_account_not_seen_before_is_looked_up_once(desk: Desk) -> None:
    for _ in range(3):
        await desk.record(call("not-yet-seen"))
    await desk.record_batch(call("not-yet-seen"))
    assert desk.statuses.look_ups == [["not-yet-seen"]]


async def test_a_call_of_an_unknown_account_is_not_found_but_kept(desk: Desk) -> None:
    sent = call("nobody", result_code="E")
    with pytest.raises(MeteringError, match="'nobody' is not activated") as refused:
        await desk.record(sent)
    assert refused.value.reason is Reason.ACCOUNT_NOT_FOUND
    (kept,) = desk.book.rejected
    assert (kept.account_id, kept.call_id, kept.result_code) == ("nobody", sent[2], "E")
    assert (kept.reason, kept.message, kept.rejected_at) == ("ACCOUNT_NOT_FOUND", refused.value.message, NOW)
    assert not desk.book.calls
    assert desk.metrics.counts == {"ACCOUNT_NOT_FOUND": 1}


async def test_a_call_too_far_off_is_refused_but_kept(desk: Desk) -> None:
    with pytest.raises(MeteringError) as refused:
        await desk.record(call(at=NOW - timedelta(days=63)))
    assert refused.value.reason is Reason.OCCURRED_AT_OUT_OF_RANGE
    assert [kept.reason for kept in desk.book.rejected] == ["OCCURRED_AT_OUT_OF_RANGE"]
    assert desk.metrics.counts == {"OCCURRED_AT_OUT_OF_RANGE": 1}


async def test_a_malformed_call_is_refused_and_not_kept(desk: Desk) -> None:
    with pytest.raises(MeteringError) as refused:
        await desk.record(call(api=""))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert not desk.book.rejected
    assert desk.metrics.counts == {"INVALID_FIELD": 1}


async def test_a_call_that_the_database_refuses_is_kept_among_the_rejected_calls_once(desk: Desk) -> None:
    with pytest.raises(MeteringError, match="the database refuses this call: value out of range") as refused:
        await desk.record(call(api=UNRECORDABLE_API))
    assert refused.value.reason is Reason.UNRECORDABLE
    assert [kept.reason for kept in desk.book.rejected] == ["UNRECORDABLE"]
    assert desk.metrics.counts == {"UNRECORDABLE": 1}


async def test_of_a_batch_too_a_call_that_the_database_refuses_is_kept_and_counted_once(desk: Desk) -> None:
    recorded = await desk.record_batch(call(), call(api=UNRECORDABLE_API), call())
    assert (recorded.accepted, [place for place, _ in recorded.rejections]) == (2, [1])
    assert [kept.reason for kept in desk.book.rejected] == ["UNRECORDABLE"]
    assert desk.metrics.counts == {"new": 2, "duplicates": 0, "carried": 0, "UNRECORDABLE": 1}


async def test_a_call_that_can_neither_be_recorded_nor_kept_does_not_bring_recording_down(desk: Desk) -> None:
    desk.book.refuses_rejected = True
    sent = [call(), call(api=UNRECORDABLE_API), call()]
    async with asyncio.timeout(5):
        recorded = await desk.record_batch(*sent)
    assert recorded.accepted == 2
    assert [(place, error.reason) for place, error in recorded.rejections] == [(1, Reason.UNRECORDABLE)]


async def test_a_rejected_call_that_cannot_be_kept_is_refused_all_the_same(desk: Desk) -> None:
    desk.book.refuses_rejected = True
    with pytest.raises(MeteringError) as refused:
        await desk.record(call("nobody"))
    assert refused.value.reason is Reason.ACCOUNT_NOT_FOUND
    assert (await desk.record(call())).receipt == Receipt(False, NOVEMBER)


async def test_rejected_calls_that_are_dropped_are_counted_and_logged(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.book.rejected_max = 1
    recorded = await desk.record_batch(call("nobody"), call("nobody"), call("nobody"))
    assert len(recorded.rejections) == 3
    assert len(desk.book.rejected) == 1
    assert desk.metrics.counts == {"ACCOUNT_NOT_FOUND": 3, "dropped": 2}
    assert "2 rejected calls were not kept" in caplog.text


async def test_a_late_call_is_counted_as_carried_and_told_its_bill(desk: Desk) -> None:
    desk.book.closed = frozenset([NOVEMBER])
    assert (await desk.record(call())).receipt.billing_month == DECEMBER
    assert desk.metrics.counts["carried"] == 1


async def test_a_repeated_late_call_is_not_carried_again(desk: Desk) -> None:
    desk.book.closed = frozenset([NOVEMBER])
    sent = call()
    await desk.record_batch(sent, sent)
    assert desk.metrics.counts == {"new": 1, "duplicates": 1, "carried": 1}


async def test_the_answer_has_the_status_as_it_is_after_the_commit(desk: Desk) -> None:
    suspended = status_of("active", ServiceState.SUSPENDED, version=2)
    record = desk.book.record

    async def suspend_meanwhile(calls: Sequence[Call]) -> Sequence[Receipt]:
        desk.statuses.add(suspended)
        return await record(calls)

    desk.recorder.calls._commit = suspend_meanwhile
    assert (await desk.record(call())).status == suspended
    desk.statuses.add(status_of("active", version=3))
    assert (await desk.record_batch(call())).not_active == [suspended]


async def test_while_the_database_is_away_a_call_waits_and_is_then_recorded(desk: Desk) -> None:
    desk.book.failures = [DatabaseUnavailableError("away")]
    assert (await desk.record(call())).receipt == Receipt(False, NOVEMBER)


async def test_while_statuses_cannot_be_looked_up_nothing_of_a_batch_is_recorded(desk: Desk) -> None:
    desk.statuses.away = True
    with pytest.raises(DatabaseUnavailableError):
        await desk.record_batch(call(), call("not-yet-seen"))
    with pytest.raises(DatabaseUnavailableError):
        await desk.record(call("not-yet-seen"))
    assert not desk.book.calls
    assert not desk.book.rejected


async def test_a_call_that_could_not_be_looked_up_was_not_rejected(desk: Desk) -> None:
    desk.statuses.away = True
    with pytest.raises(DatabaseUnavailableError):
        await desk.record(call("not-yet-seen"))
    assert desk.metrics.counts == {}


async def test_an_empty_batch_is_recorded_at_once(desk: Desk) -> None:
    assert await desk.record_batch() == RecordedBatch(0, 0, [], [])


async def test_suspended_accounts_are_told_once_each_and_only_those_of_recorded_calls(desk: Desk) -> None:
    desk.statuses.add(status_of("idle", ServiceState.SUSPENDED), status_of("malformed", ServiceState.SUSPENDED))
    recorded = await desk.record_batch(
        call("suspended"), call("active"), call("suspended"), call("malformed", api=""), call("nobody")
    )
    assert recorded.not_active == [status_of("suspended", ServiceState.SUSPENDED)]


REASONS = {
    "nobody": Reason.ACCOUNT_NOT_FOUND,
    "malformed": Reason.INVALID_FIELD,
    "far off": Reason.OCCURRED_AT_OUT_OF_RANGE,
    "unrecordable": Reason.UNRECORDABLE,
}
kinds = st.sampled_from(["active", "suspended", "not-yet-seen", *REASONS])


def sent_as(kind: str, number: int) -> CallFields:
    call_id = UUID(int=number)
    match kind:
        case "malformed":
            return call(api="", call_id=call_id)
        case "far off":
            return call(at=NOW + timedelta(days=1), call_id=call_id)
        case "unrecordable":
            return call(api=UNRECORDABLE_API, call_id=call_id)
        case _:
            return call(kind, call_id=call_id)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(kinds, st.integers(0, 15)), max_size=25))
def test_of_a_batch_every_call_is_accepted_a_duplicate_or_rejected(sent: list[tuple[str, int]]) -> None:
    async def record() -> tuple[Desk, RecordedBatch]:
        async with open_desk() as desk:
            return desk, await desk.record_batch(*(sent_as(kind, number) for kind, number in sent))

    desk, recorded = asyncio.run(record())
    wrong = [(place, REASONS[kind]) for place, (kind, _) in enumerate(sent) if kind in REASONS]
    good = [each for each in sent if each[0] not in REASONS]
    assert [(place, error.reason) for place, error in recorded.rejections] == wrong
    assert recorded.accepted == len(set(good)) == len(desk.book.calls)
    assert recorded.accepted + recorded.duplicates + len(recorded.rejections) == len(sent)
    suspended = {kind for kind, _ in good if kind == "suspended"}
    assert [status.account_id for status in recorded.not_active] == sorted(suspended)
    kept = sorted((each.account_id, each.reason) for each in desk.book.rejected if each.reason != Reason.UNRECORDABLE)
    assert kept == sorted(
        ("nobody" if kind == "nobody" else "active", REASONS[kind]) for kind, _ in sent if kind in {"nobody", "far off"}
    )


@settings(max_examples=200, deadline=None)
@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_5_minutes_ahead_and_62_days_back_are_kept_to_the_microsecond(now: datetime) -> None:
    recorder = Desk().recorder
    recorder._clock = FakeClock(now)
    now_micros = recorder._now_micros()
    assert now_micros == (now - EPOCH) // timedelta(microseconds=1)
