"""When the monthly run does its work, in what order, and what it comes to whatever happens meanwhile."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing import monthly_run
from metering.billing.months import format_month, next_month, parse_month
from metering.errors import DatabaseUnavailableError, MeteringError, Reason, TransactionConflictError
from metering.model import AccountId, BillState, Money, MonthlyRunRecord, RunFailure, ServiceState
from tests.support.run_books import CALENDAR, RunBooks, collector, replica
from tests.support.service import FakeClock

NOVEMBER = parse_month("2026-11")


def noon(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T12:00+08:00").astimezone(UTC)


@pytest.fixture
def books() -> RunBooks:
    """Return books on which acme owes 1 CNY for November, and the run of 3 November is done."""
    books = RunBooks(done_on=date(2026, 11, 3))
    books.add("acme", NOVEMBER, "1")
    return books


async def run_at(books: RunBooks, at: datetime) -> MonthlyRunRecord | None:
    return await replica(books, FakeClock(at)).run_if_due()


@pytest.mark.parametrize(
    ("day", "due"),
    [
        ("2026-11-23", False),
        ("2026-11-30", False),
        ("2026-12-01", True),
        ("2026-12-02", True),
        ("2026-12-03", True),
        ("2026-12-31", True),
    ],
)
async def test_it_is_due_from_the_first_day_of_the_next_month_on(books: RunBooks, day: str, *, due: bool) -> None:
    assert (await run_at(books, noon(day)) is not None) == due


async def test_a_day_is_run_once(books: RunBooks) -> None:
    ran = [await run_at(books, noon("2026-12-01") + timedelta(hours=hour)) for hour in range(3)]
    assert [run is not None for run in ran] == [True, False, False]


async def test_the_day_begins_at_midnight_of_the_billing_time_zone(books: RunBooks) -> None:
    midnight = datetime(2026, 11, 30, 16, tzinfo=UTC)
    assert not await run_at(books, midnight - timedelta(microseconds=1))
    assert await run_at(books, midnight)


async def test_whoever_is_short_is_tried_each_day_and_suspended_on_the_third(books: RunBooks) -> None:
    acme = books.accounts[AccountId("acme")]
    states = []
    for day in ("2026-12-01", "2026-12-02", "2026-12-03", "2026-12-04"):
        acme.balance += Decimal("0.3")
        run = await run_at(books, noon(day))
        states.append((acme.state, books.bills[acme.account_id, NOVEMBER].deducted, run and run.accounts_suspended))
    assert states == [
        (ServiceState.ACTIVE, Decimal("0.3"), 0),
        (ServiceState.ACTIVE, Decimal("0.6"), 0),
        (ServiceState.SUSPENDED, Decimal("0.9"), 1),
        (ServiceState.SUSPENDED, Decimal("0.9"), None),
    ]


@pytest.mark.parametrize("back_on", ["2026-12-04", "2026-12-20", "2026-12-31"])
@pytest.mark.parametrize("last", ["2026-11-03", "2026-12-01", "2026-12-02"])
async def test_who_was_down_makes_up_for_it_when_up_again(books: RunBooks, last: str, back_on: str) -> None:
    books.done_on = date.fromisoformat(last)
    assert await run_at(books, noon(back_on))
    assert books.closed == {NOVEMBER}
    assert not await run_at(books, noon(back_on) + timedelta(hours=1))


async def test_who_was_down_for_years_closes_all_months_the_oldest_first(books: RunBooks) -> None:
    month, months = NOVEMBER, []
    while month < date(2029, 1, 1):
        books.add("acme", month, "1")
        months.append(month)
        month = next_month(month)
    run = await run_at(books, noon("2029-01-20"))
    assert books.done == [f"close {format_month(month)}" for month in months]
    assert run
    assert (run.months, run.bills_issued, run.issued) == (months, 26, {"CNY": Decimal(26)})


async def test_a_month_that_still_runs_is_never_closed(books: RunBooks) -> None:
    books.add("acme", parse_month("2026-12"), "1")
    await run_at(books, noon("2026-12-03"))
    assert books.closed == {NOVEMBER}


async def test_the_first_run_of_all_is_due_at_once(books: RunBooks) -> None:
    books.done_on = None
    assert await run_at(books, noon("2026-12-20"))


async def test_while_another_replica_does_the_run_this_one_leaves_it_alone(books: RunBooks) -> None:
    books.busy = True
    assert not await run_at(books, noon("2026-12-01"))
    with pytest.raises(MeteringError) as refused:
        await replica(books, FakeClock(noon("2026-12-01"))).run_now()
    assert refused.value.reason is Reason.MONTHLY_RUN_UNDER_WAY
    assert (books.runs, books.closed) == ([], set())


async def test_what_another_replica_has_done_meanwhile_is_not_done_again(books: RunBooks) -> None:
    books.done_meanwhile = date(2026, 12, 1)
    assert not await run_at(books, noon("2026-12-01"))
    assert books.runs == []


async def test_by_hand_it_runs_on_any_day_and_counts_as_that_days(books: RunBooks) -> None:
    clock = FakeClock(noon("2026-12-02"))
    run = await replica(books, clock, "by hand").run_now()
    assert (run.run_on, run.replica, run.bills_issued) == (date(2026, 12, 2), "by hand", 1)
    assert not await replica(books, clock).run_if_due()
    again = await replica(books, clock).run_now()
    assert (again.months, again.bills_issued, again.issued, again.deducted) == ([], 0, {}, {})


async def test_a_run_tells_what_it_did(books: RunBooks) -> None:
    books.add("zenith", NOVEMBER, "2.5")
    books.add("zenith", parse_month("2026-10"), "4")
    books.accounts[AccountId("zenith")].balance = Decimal(5)
    run = await run_at(books, noon("2026-12-03"))
    assert run == MonthlyRunRecord(
        run_id=1,
        run_on=date(2026, 12, 3),
        replica="replica",
        started_at=noon("2026-12-03"),
        finished_at=noon("2026-12-03"),
        months=[parse_month("2026-10"), NOVEMBER],
        bills_issued=3,
        issued={"CNY": Decimal("7.5")},
        bills_paid=1,
        deducted={"CNY": Decimal(5)},
        accounts_suspended=2,
    )
    assert books.runs == [run]


async def test_what_a_run_did_is_noted_while_it_goes_on(books: RunBooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monthly_run, "ACCOUNTS_PER_CHUNK", 2)
    for number in range(5):
        books.add(f"account-{number}", NOVEMBER, "1")
    await run_at(books, noon("2026-12-01"))
    assert books.notes == 1 + 3 + 1  # the month, three chunks of at most two accounts, the end


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such tier"),
        TransactionConflictError("deadlock"),
        DatabaseUnavailableError("somebody has kept the account locked for 30 s"),
    ],
)
async def test_an_account_that_fails_does_not_hold_up_the_others_and_is_tried_again_an_hour_later(
    books: RunBooks, error: Exception
) -> None:
    acme, zenith = AccountId("acme"), AccountId("zenith")
    books.add(zenith, NOVEMBER, "1")
    books.accounts[zenith].balance = books.accounts[acme].balance = Decimal(1)
    books.defects[acme] = error
    run = await run_at(books, noon("2026-12-01"))
    assert run
    assert run.failed == [RunFailure(NOVEMBER, acme, f"{type(error).__name__}: {error}")]
    assert books.bills[zenith, NOVEMBER].state is BillState.PAID
    books.defects.clear()
    assert not await run_at(books, noon("2026-12-01") + timedelta(minutes=59))
    again = await run_at(books, noon("2026-12-01") + timedelta(hours=1))
    assert again
    assert (again.failures, again.bills_paid) == (0, 1)
    assert not await run_at(books, noon("2026-12-01") + timedelta(hours=3))


async def test_after_a_failure_the_next_day_does_not_wait(books: RunBooks) -> None:
    books.defects[AccountId("acme")] = ValueError("no such tier")
    assert await run_at(books, noon("2026-12-02") + timedelta(hours=11, minutes=59))
    assert await run_at(books, noon("2026-12-02") + timedelta(hours=12))


async def test_a_month_that_cannot_be_closed_does_not_hold_up_the_others(books: RunBooks) -> None:
    books.add("zenith", parse_month("2026-10"), "1")
    books.defects[parse_month("2026-10")] = ValueError("no such tier")
    run = await run_at(books, noon("2026-12-01"))
    assert run
    assert run.failed == [RunFailure(parse_month("2026-10"), AccountId(""), "ValueError: no such tier")]
    assert run.months == [NOVEMBER]


async def test_of_many_failures_the_first_are_told_and_all_are_counted(
    books: RunBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monthly_run, "FAILURES_TOLD_MAX", 2)
    for name in ("a", "b", "c"):
        books.add(name, NOVEMBER, "1")
        books.defects[AccountId(name)] = ValueError("x" * 10_000)
    run = await run_at(books, noon("2026-12-01"))
    assert run
    assert (run.failures, [each.account_id for each in run.failed]) == (3, ["a", "b"])
    assert all(len(each.message) == 500 for each in run.failed)


@pytest.mark.parametrize("steps", range(12))
async def test_a_run_that_dies_at_any_step_begins_again_and_does_what_is_left(books: RunBooks, steps: int) -> None:
    books.accounts[AccountId("acme")].balance = Decimal(5)
    books.steps_left = steps
    try:
        died = await run_at(books, noon("2026-12-01")) is None
    except DatabaseUnavailableError:
        died = True
    assert died == (steps < 10)  # so many steps has the run
    assert not books.busy
    books.steps_left = None
    assert (await run_at(books, noon("2026-12-01")) is not None) == died
    acme = books.accounts[AccountId("acme")]
    assert (acme.balance, [entry.amount for entry in acme.ledger]) == (4, [-1])
    assert sum(run.finished_at is not None for run in books.runs) == 1


pauses = st.integers(1, 80 * 24) | st.integers(1, 30)
wakings = st.lists(st.tuples(pauses, st.none() | st.integers(0, 40), st.integers(0, 300)), max_size=40)
"""Hours of downtime, after how many steps the database goes away (or not), and what late pays before, in cents."""


@settings(max_examples=150, deadline=None)
@given(wakings)
async def test_whatever_the_downtime_each_month_is_closed_and_each_bill_deducted_once_and_who_owes_is_suspended_on_time(
    wakings: list[tuple[int, int | None, int]],
) -> None:
    books, clock = RunBooks(done_on=date(2026, 11, 3)), FakeClock(noon("2026-11-03"))
    month = NOVEMBER
    for number in range(110):  # more months than can go by
        if number % 5 != 3:
            for name in ("rich", "late", "poor"):
                books.add(name, month, f"{number % 7}.50")
        month = next_month(month)
    books.accounts[AccountId("rich")].balance = Decimal(10_000)
    for pause_h, steps, cents in wakings:
        clock.advance(hours=pause_h)
        books.steps_left = None
        if cents:
            money = Money(Decimal(cents) / 100, "CNY")
            await collector(books, clock).record_payment(AccountId("late"), money, f"payment-{clock.time.isoformat()}")
        books.steps_left = steps
        for _ in range(2):
            try:
                await replica(books, clock).run_if_due()
                break
            except DatabaseUnavailableError:
                books.steps_left = None
                check_nobody_is_suspended_early(books, clock)
        check_everything_due_is_done(books, clock)


def check_nobody_is_suspended_early(books: RunBooks, clock: FakeClock) -> None:
    today = CALENDAR.today(clock.now())
    assert all(bill.due_date <= today for bill in books.bills.values() if bill.state is BillState.OVERDUE)


def check_everything_due_is_done(books: RunBooks, clock: FakeClock) -> None:
    check_nobody_is_suspended_early(books, clock)
    today = CALENDAR.today(clock.now())
    ended = {key for key in books.owed if key[1] < today.replace(day=1)}
    assert books.bills.keys() == ended
    assert books.closed == {month for _, month in ended}
    for (account_id, billed), bill in books.bills.items():
        account = books.accounts[account_id]
        taken = [entry.amount for entry in account.ledger if entry.bill_month == billed]
        assert bill.deducted == -sum(taken) <= bill.total
        if bill.state is not BillState.PAID:
            assert account.balance == 0
            assert bill.state is (BillState.OVERDUE if bill.due_date <= today else BillState.ISSUED)
    overdue = {account_id for (account_id, _), bill in books.bills.items() if bill.state is BillState.OVERDUE}
    suspended = {each.account_id for each in books.accounts.values() if each.state is ServiceState.SUSPENDED}
    assert suspended == overdue
