"""When the monthly run does its work, and in what order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing.close import MonthCloser, Progress
from metering.billing.deduct import Collector, Deduction
from metering.billing.monthly_run import MonthlyRun
from metering.billing.months import BillingCalendar, due_date, format_month, parse_month
from metering.errors import DatabaseUnavailableError
from metering.model import (
    AccountId,
    Bill,
    BillState,
    ClosedMonth,
    Money,
    Month,
    ServiceState,
    ServiceStatus,
)
from tests.support.service import FakeClock

CALENDAR = BillingCalendar.of_zone("Asia/Shanghai")
ACCOUNT = AccountId("acme")


def noon(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T12:00+08:00").astimezone(UTC)


@dataclass
class Book:
    """What the run notes, and everything that it does, in order."""

    last: date | None = None
    open_months: list[Month] = field(default_factory=list)
    unpaid: list[tuple[AccountId, Month]] = field(default_factory=list)
    locked: bool = False
    done_while_waiting: date | None = None
    done: list[str] = field(default_factory=list)
    looked_back_to: Month | None = None

    @asynccontextmanager
    async def monthly_run(self) -> AsyncIterator[bool]:
        if self.done_while_waiting:
            self.last = self.done_while_waiting
        if self.locked:
            yield False
            return
        self.locked = True
        try:
            yield True
        finally:
            self.locked = False

    async def last_monthly_run(self) -> date | None:
        return self.last

    async def finish_monthly_run(self, day: date, now: datetime) -> None:
        assert self.locked
        self.last = day
        self.done.append(f"finish {day}")

    async def months_to_close(self, before: Month, not_before: Month) -> list[Month]:
        assert self.locked
        self.looked_back_to = not_before
        return sorted(month for month in self.open_months if not_before <= month < before)

    async def unpaid_bills(self, chunk: int) -> AsyncIterator[tuple[AccountId, Month]]:
        for account_id, month in self.unpaid:
            yield account_id, month


class Closer(MonthCloser):
    """Notes what is closed."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.failure: Exception | None = None

    async def close(self, month: Month, *, dry_run: bool = False, progress: Progress | None = None) -> ClosedMonth:
        assert not dry_run
        if self.failure:
            raise self.failure
        self.book.done.append(f"close {format_month(month)}")
        self.book.open_months.remove(month)
        self.book.unpaid.append((ACCOUNT, month))
        return ClosedMonth(1, (), (), already_closed=False)


class Deductor(Collector):
    """Notes what is deducted."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.failure: Exception | None = None

    async def deduct(self, account_id: AccountId, month: Month) -> Deduction:
        if self.failure:
            raise self.failure
        self.book.done.append(f"deduct {account_id} {format_month(month)}")
        nothing = Money(Decimal(0), "CNY")
        bill = Bill(
            account_id=account_id,
            month=month,
            currency="CNY",
            state=BillState.OVERDUE,
            total=Decimal(1),
            deducted=Decimal(0),
            issued_at=noon("2026-12-01"),
            due_date=due_date(month),
        )
        return Deduction(bill, nothing, ServiceStatus(account_id, ServiceState.SUSPENDED, "", nothing, 2))


class Replica:
    """A service with its monthly run."""

    def __init__(self, book: Book, now: datetime) -> None:
        self.clock = FakeClock(now)
        self.closer, self.deductor = Closer(book), Deductor(book)
        self.run = MonthlyRun(book, self.closer, self.deductor, CALENDAR, self.clock)

    async def run_at(self, now: datetime) -> bool:
        self.clock.time = now
        return await self.run.run_if_due()


@pytest.fixture
def book() -> Book:
    return Book(last=date(2026, 11, 3), open_months=[parse_month("2026-11"), parse_month("2026-12")])


@pytest.fixture
def replica(book: Book) -> Replica:
    return Replica(book, noon("2026-11-30"))


async def test_last_month_is_closed_and_its_bills_are_deducted_on_day_1(book: Book, replica: Replica) -> None:
    assert await replica.run_at(noon("2026-12-01"))
    assert book.done == ["close 2026-11", "deduct acme 2026-11", "finish 2026-12-01"]


async def test_days_1_2_and_3_have_a_run_each_and_no_other_day_has_one(book: Book, replica: Replica) -> None:
    days = [noon("2026-11-04") + timedelta(days=number) for number in range(90)]
    ran = [day for day in days if await replica.run_at(day)]
    assert [f"{day:%m-%d}" for day in ran] == ["12-01", "12-02", "12-03", "01-01", "01-02", "01-03", "02-01"]


async def test_a_run_happens_once_a_day_however_often_it_is_asked_for(book: Book, replica: Replica) -> None:
    assert [await replica.run_at(noon("2026-12-02")) for _ in range(3)] == [True, False, False]
    assert book.done.count("finish 2026-12-02") == 1


async def test_the_day_begins_at_midnight_of_the_billing_time_zone(replica: Replica) -> None:
    midnight = datetime(2026, 11, 30, 16, tzinfo=UTC)
    assert not await replica.run_at(midnight - timedelta(microseconds=1))
    assert await replica.run_at(midnight)


async def test_every_run_tries_again_to_deduct_what_is_unpaid(book: Book, replica: Replica) -> None:
    for day in ("2026-12-01", "2026-12-02", "2026-12-03", "2026-12-04"):
        await replica.run_at(noon(day))
    deducted = [done for done in book.done if done.startswith(("deduct", "finish"))]
    assert deducted == [line for day in (1, 2, 3) for line in ("deduct acme 2026-11", f"finish 2026-12-0{day}")]


@pytest.mark.parametrize("back_on", ["2026-12-04", "2026-12-20", "2026-12-31"])
@pytest.mark.parametrize("last", ["2026-11-03", "2026-12-01", "2026-12-02"])
async def test_who_was_down_makes_up_for_it_when_up_again(
    book: Book, replica: Replica, last: str, back_on: str
) -> None:
    book.last = date.fromisoformat(last)
    assert await replica.run_at(noon(back_on))
    assert "close 2026-11" in book.done
    assert not await replica.run_at(noon(back_on) + timedelta(hours=1))


async def test_who_was_down_for_months_closes_all_of_them_the_oldest_first(book: Book, replica: Replica) -> None:
    assert await replica.run_at(noon("2027-01-20"))
    assert [done for done in book.done if done.startswith("close")] == ["close 2026-11", "close 2026-12"]


async def test_a_month_that_still_runs_is_never_closed(book: Book, replica: Replica) -> None:
    await replica.run_at(noon("2026-12-03"))
    assert book.open_months == [parse_month("2026-12")]


async def test_a_month_whose_calls_had_no_price_is_looked_for_more_than_a_year_back(
    book: Book, replica: Replica
) -> None:
    await replica.run_at(noon("2026-12-01"))
    assert book.looked_back_to is not None
    assert book.looked_back_to <= parse_month("2025-12")


async def test_the_first_run_of_all_is_due_at_once(book: Book, replica: Replica) -> None:
    book.last = None
    assert await replica.run_at(noon("2026-12-20"))


async def test_while_another_replica_does_the_run_this_one_leaves_it_alone(book: Book, replica: Replica) -> None:
    book.locked = True
    assert not await replica.run_at(noon("2026-12-01"))
    assert book.done == []


async def test_what_another_replica_has_done_meanwhile_is_not_done_again(book: Book, replica: Replica) -> None:
    book.done_while_waiting = date(2026, 12, 1)
    assert not await replica.run_at(noon("2026-12-01"))
    assert book.done == []


@pytest.mark.parametrize("part", ["closer", "deductor"])
async def test_a_run_that_failed_is_not_noted_as_done_and_begins_again(book: Book, replica: Replica, part: str) -> None:
    failing = replica.closer if part == "closer" else replica.deductor
    failing.failure = DatabaseUnavailableError("away")
    with pytest.raises(DatabaseUnavailableError):
        await replica.run_at(noon("2026-12-01"))
    assert book.last == date(2026, 11, 3)
    assert not book.locked
    failing.failure = None
    assert await replica.run_at(noon("2026-12-01"))
    assert book.done == ["close 2026-11", "deduct acme 2026-11", "finish 2026-12-01"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30 * 24), max_size=40))
async def test_a_run_is_due_once_a_run_day_came_since_the_last_one(pauses_h: list[int]) -> None:
    book = Book(last=date(2026, 11, 3))
    replica = Replica(book, noon("2026-11-03"))
    for pause_h in pauses_h:
        replica.clock.advance(hours=pause_h)
        assert book.last is not None
        today = CALENDAR.today(replica.clock.time)
        since = [book.last + timedelta(days=number) for number in range(1, (today - book.last).days + 1)]
        assert await replica.run_at(replica.clock.time) == any(day.day <= 3 for day in since)
