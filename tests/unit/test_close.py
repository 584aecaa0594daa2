"""CloseMonth, on books in memory."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing import close
from metering.billing.close import MonthCloser
from metering.billing.months import BillingCalendar
from metering.errors import CONFLICT_RETRIES, MeteringError, Reason, TransactionConflictError
from metering.model import (
    AccountId,
    ApiPrice,
    Bill,
    BillState,
    Money,
    Month,
    MonthUsage,
    PriceModel,
    PricePlan,
    Tier,
)
from tests.support.service import FakeClock

OCTOBER, NOVEMBER = Month(date(2026, 10, 1)), Month(date(2026, 11, 1))
END_OF_NOVEMBER = datetime(2026, 11, 30, 16, tzinfo=UTC)  # in Shanghai


def plan_of(unit_price: str, currency: str) -> PricePlan:
    price = ApiPrice("DetectAuth", PriceModel.PER_CALL, (Tier(None, Decimal(unit_price)),))
    return PricePlan("standard", 1, currency, (price,))


@dataclass
class Unbilled:
    """Some accounts, while their transaction lasts."""

    books: "Books"
    month: Month
    account_ids: Sequence[AccountId]

    @property
    def currencies(self) -> Mapping[AccountId, str]:
        return {account_id: self.books.accounts[account_id] for account_id in self.account_ids}

    @property
    def usage(self) -> Sequence[MonthUsage]:
        unbilled = [each for each in self.account_ids if (each, self.month) not in self.books.bills]
        return [usage for each in unbilled for usage in self.books.usage if usage.account_id == each]

    def plan(self, account_id: AccountId, month: Month) -> PricePlan | None:
        return self.books.plans.get(account_id)

    async def issue(self, bills: Sequence[Bill]) -> None:
        await asyncio.sleep(0)
        self.books.fail_if_told()
        for bill in bills:
            assert (bill.account_id, bill.month) not in self.books.bills, "an account was billed twice"
            self.books.bills[bill.account_id, bill.month] = bill


@dataclass
class Books:
    """Accounts with their currencies, usage, plans and bills, in memory."""

    accounts: dict[AccountId, str] = field(default_factory=dict)
    plans: dict[AccountId, PricePlan] = field(default_factory=dict)
    usage: list[MonthUsage] = field(default_factory=list)
    bills: dict[tuple[AccountId, Month], Bill] = field(default_factory=dict)
    closed: dict[Month, datetime] = field(default_factory=dict)
    billed: dict[Month, datetime] = field(default_factory=dict)
    failures: list[Exception | None] = field(default_factory=list)
    """What happens to the next bills that are issued; nothing if there are none."""
    locks: dict[AccountId, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    chunks: list[int] = field(default_factory=list)

    def fail_if_told(self) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure:
            raise failure

    def add(self, name: str, calls: int, unit_price: str | None = "0.0125", currency: str = "CNY") -> None:
        account_id = AccountId(name)
        self.accounts[account_id] = currency
        if unit_price is not None:
            self.plans[account_id] = plan_of(unit_price, currency)
        if calls:
            self.usage.append(MonthUsage(account_id, NOVEMBER, "DetectAuth", "", calls, 0))

    async def seal(self, month: Month, now: datetime) -> bool:
        if month in self.closed:
            return False
        self.closed[month] = now
        return True

    async def month_is_closed(self, month: Month) -> bool:
        return month in self.closed

    async def account_ids(self, chunk: int) -> AsyncIterator[Sequence[AccountId]]:
        for start in range(0, len(self.accounts), chunk):
            yield sorted(self.accounts)[start : start + chunk]

    @asynccontextmanager
    async def unbilled_accounts(
        self, month: Month, account_ids: Sequence[AccountId], *, locked: bool
    ) -> AsyncIterator[Unbilled]:
        async with AsyncExitStack() as stack:
            for account_id in account_ids if locked else ():
                await stack.enter_async_context(self.locks[account_id])
            self.chunks.append(len(account_ids))
            yield Unbilled(self, month, account_ids)

    async def note_billed(self, month: Month, now: datetime) -> None:
        self.billed.setdefault(month, now)

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        bills = [bill for (_, billed), bill in self.bills.items() if billed == month]
        currencies = {bill.currency for bill in bills}
        totals = [
            Money(sum((bill.total for bill in bills if bill.currency == each), Decimal(0)), each)
            for each in sorted(currencies, reverse=True)
        ]
        return len(bills), totals


def closer_of(books: Books, clock: FakeClock | None = None) -> MonthCloser:
    calendar = BillingCalendar.of_zone("Asia/Shanghai")
    return MonthCloser(books, calendar, clock or FakeClock(END_OF_NOVEMBER))


@pytest.fixture
def books() -> Books:
    books = Books()
    books.add("a", 3)
    books.add("b", 0)
    books.add("c", 100)
    books.add("d", 1, unit_price=None)
    books.add("e", 7, unit_price="2", currency="USD")
    return books


async def test_each_account_with_calls_gets_one_bill(books: Books) -> None:
    closed = await closer_of(books).close(NOVEMBER)
    assert closed.bills_issued == 3
    assert closed.totals == (Money(Decimal("1.29"), "CNY"), Money(Decimal(14), "USD"))
    assert closed.unrated_accounts == ("d",)
    assert not closed.already_closed
    assert {account_id: bill.total for (account_id, _), bill in books.bills.items()} == {
        "a": Decimal("0.04"),
        "c": Decimal("1.25"),
        "e": Decimal(14),
    }


async def test_a_bill_is_the_sum_of_its_lines_and_due_on_day_3(books: Books) -> None:
    books.usage.append(MonthUsage(AccountId("e"), OCTOBER, "DetectAuth", "", 2, 0))
    books.usage.sort()
    await closer_of(books).close(NOVEMBER)
    bill = books.bills[AccountId("e"), NOVEMBER]
    assert bill.total == sum(line.amount for line in bill.lines) == 18
    assert [line.occurred_month for line in bill.lines] == [OCTOBER, NOVEMBER]
    assert (bill.state, bill.deducted, bill.currency) == (BillState.ISSUED, Decimal(0), "USD")
    assert (bill.issued_at, bill.due_date) == (END_OF_NOVEMBER, date(2026, 12, 3))


async def test_a_bill_that_comes_to_nothing_is_paid_from_the_start() -> None:
    books = Books()
    books.add("a", 3, unit_price="0.001")
    await closer_of(books).close(NOVEMBER)
    bill = books.bills[AccountId("a"), NOVEMBER]
    assert (bill.total, bill.state) == (Decimal(0), BillState.PAID)


async def test_a_month_cannot_be_closed_until_the_very_instant_it_ends(books: Books) -> None:
    clock = FakeClock(END_OF_NOVEMBER - timedelta(microseconds=1))
    closer = closer_of(books, clock)
    for dry_run in (True, False):
        with pytest.raises(MeteringError, match="2026-11 has not ended in Asia/Shanghai") as refused:
            await closer.close(NOVEMBER, dry_run=dry_run)
        assert refused.value.reason is Reason.MONTH_NOT_ENDED
    assert not books.closed
    clock.advance(microseconds=1)
    await closer.close(NOVEMBER)
    assert list(books.closed) == [NOVEMBER]


async def test_a_dry_run_tells_what_closing_would_come_to_and_changes_nothing(books: Books) -> None:
    closer = closer_of(books)
    told = await closer.close(NOVEMBER, dry_run=True)
    assert not books.closed
    assert not books.bills
    assert await closer.close(NOVEMBER) == told


async def test_closing_again_returns_the_same_and_issues_nothing(books: Books) -> None:
    clock = FakeClock(END_OF_NOVEMBER)
    closer = closer_of(books, clock)
    first = await closer.close(NOVEMBER)
    bills = dict(books.bills)
    clock.advance(days=1)
    for dry_run in (True, False):
        again = await closer.close(NOVEMBER, dry_run=dry_run)
        assert again.already_closed
        assert (again.bills_issued, again.totals, again.unrated_accounts) == (3, first.totals, ("d",))
    assert books.bills == bills
    assert books.closed == {NOVEMBER: END_OF_NOVEMBER}


async def test_an_unrated_account_is_billed_by_the_next_close_after_it_got_a_price(books: Books) -> None:
    closer = closer_of(books)
    await closer.close(NOVEMBER)
    assert NOVEMBER in books.closed
    books.plans[AccountId("d")] = plan_of("3", "CNY")
    closed = await closer.close(NOVEMBER)
    assert (closed.bills_issued, closed.unrated_accounts) == (4, ())
    assert books.bills[AccountId("d"), NOVEMBER].total == 3


async def test_an_account_of_which_one_api_has_no_price_is_not_billed_in_part(books: Books) -> None:
    books.usage.insert(0, MonthUsage(AccountId("a"), NOVEMBER, "CompareFace", "", 2, 0))
    closed = await closer_of(books).close(NOVEMBER)
    assert closed.unrated_accounts == ("a", "d")
    assert (AccountId("a"), NOVEMBER) not in books.bills


async def test_so_many_unrated_accounts_are_named_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(close, "UNRATED_ACCOUNTS_MAX", 3)
    monkeypatch.setattr(close, "ACCOUNTS_PER_CHUNK", 2)
    books = Books()
    for name in "fedcba":
        books.add(name, 1, unit_price=None)
    assert (await closer_of(books).close(NOVEMBER)).unrated_accounts == ("a", "b", "c")


async def test_accounts_are_billed_a_chunk_at_a_time(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(close, "ACCOUNTS_PER_CHUNK", 2)
    await closer_of(books).close(NOVEMBER)
    assert books.chunks == [2, 2, 1]


async def test_a_month_is_noted_as_billed_once_every_account_with_calls_has_its_bill(books: Books) -> None:
    clock = FakeClock(END_OF_NOVEMBER)
    await closer_of(books, clock).close(NOVEMBER)
    assert not books.billed, "d has calls and no price"
    books.plans[AccountId("d")] = plan_of("3", "CNY")
    await closer_of(books, clock).close(NOVEMBER, dry_run=True)
    assert not books.billed
    clock.advance(days=1)
    await closer_of(books, clock).close(NOVEMBER)
    assert books.billed == {NOVEMBER: END_OF_NOVEMBER + timedelta(days=1)}


accounts = st.lists(
    st.tuples(st.integers(0, 50), st.none() | st.sampled_from(["0", "0.004", "0.0125", "7"]), st.sampled_from("CU")),
    max_size=12,
)


def books_of(drawn: list[tuple[int, str | None, str]]) -> Books:
    books = Books()
    for number, (calls, unit_price, currency) in enumerate(drawn):
        books.add(f"account-{number:02}", calls, unit_price, {"C": "CNY", "U": "USD"}[currency])
    return books


@settings(max_examples=60, deadline=None)
@given(accounts, st.integers(1, 14))
def test_the_size_of_a_chunk_makes_no_difference(drawn: list[tuple[int, str | None, str]], chunk: int) -> None:
    at_once, in_chunks = books_of(drawn), books_of(drawn)
    closed = asyncio.run(closer_of(at_once).close(NOVEMBER))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(close, "ACCOUNTS_PER_CHUNK", chunk)
        dry_run = asyncio.run(closer_of(in_chunks).close(NOVEMBER, dry_run=True))
        assert not in_chunks.bills
        assert asyncio.run(closer_of(in_chunks).close(NOVEMBER)) == closed == dry_run
    assert in_chunks.bills == at_once.bills


class KilledError(Exception):
    """The process is gone."""


@settings(max_examples=60, deadline=None)
@given(accounts, st.lists(st.booleans(), max_size=8))
def test_killed_anywhere_and_run_again_every_account_gets_its_one_bill(
    drawn: list[tuple[int, str | None, str]], kills: list[bool]
) -> None:
    undisturbed, disturbed = books_of(drawn), books_of(drawn)
    expected = asyncio.run(closer_of(undisturbed).close(NOVEMBER))
    disturbed.failures = [KilledError() if kill else None for kill in kills]

    async def close_until_done() -> None:
        while True:
            try:
                closed = await closer_of(disturbed).close(NOVEMBER)
            except KilledError:
                continue
            assert (closed.bills_issued, closed.totals) == (expected.bills_issued, expected.totals)
            assert closed.unrated_accounts == expected.unrated_accounts
            return

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(close, "ACCOUNTS_PER_CHUNK", 2)
        asyncio.run(close_until_done())
    assert disturbed.bills == undisturbed.bills


async def test_several_may_close_a_month_at_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(close, "ACCOUNTS_PER_CHUNK", 1)
    closed = await asyncio.gather(*(closer_of(books, FakeClock(END_OF_NOVEMBER)).close(NOVEMBER) for _ in range(4)))
    assert {(each.bills_issued, each.totals, each.unrated_accounts) for each in closed} == {
        (3, (Money(Decimal("1.29"), "CNY"), Money(Decimal(14), "USD")), ("d",))
    }


async def test_a_chunk_that_the_database_undid_is_done_again(books: Books) -> None:
    books.failures = [TransactionConflictError("deadlock detected")] * CONFLICT_RETRIES
    assert (await closer_of(books).close(NOVEMBER)).bills_issued == 3
    assert books.chunks.count(5) == CONFLICT_RETRIES + 1
