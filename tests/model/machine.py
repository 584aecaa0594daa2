"""Drives the real service and the reference model side by side; after each step both must tell the same."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, TypeVar

import grpc
from google.type.money_pb2 import Money
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from faceid.metering.v1.metering_service_pb2 import CloseMonthRequest, DeductRequest
from tests.model import told
from tests.model.driver import Driver, until
from tests.model.reference import AHEAD, BACK, Account, Bill, Books, Call, RefusedError, first_of, month_after
from tests.model.reference_rating import MINOR_UNITS, Plan, Price
from tests.support.service import reason_of

T = TypeVar("T")

ZONES = [
    "Asia/Shanghai",
    "UTC",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Cairo",  # its clocks jump over midnight
    "Asia/Beirut",
    "Pacific/Kiritimati",
    "America/St_Johns",
]
ACCOUNTS = ["ann", "bob", "cid"]
"""Accounts that may be activated at some time."""
PLANS = ["p", "q", "r"]
APIS = ["A", "B"]
CODES = ["", "E.A", "E.B"]
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)

unit_prices = st.sampled_from([0, 1, 4_999_999, 5_000_000, 12_500_000, 333_333_333, 10**9, 2_500_000_001]).map(
    lambda billionths: Fraction(billionths, 10**9)
)
currencies = st.sampled_from(["CNY", "CNY", "CNY", "JPY", "KWD"])
account_ids = st.sampled_from(ACCOUNTS)
plan_ids = st.sampled_from(PLANS)
months_back = st.integers(-1, 3)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    model = draw(st.sampled_from(["per_call", "graduated", "volume"]))
    ends = [] if model == "per_call" else sorted(draw(st.sets(st.sampled_from([1, 2, 3, 5, 8, 100]), max_size=3)))
    tiers = tuple((end, draw(unit_prices)) for end in [*ends, 0])
    uncharged = draw(st.frozensets(st.sampled_from(["E.A", "E.B"])))
    return Price(model, tiers, draw(st.sampled_from([0, 0, 1, 4])), uncharged)


price_lists = st.dictionaries(st.sampled_from(APIS), prices(), min_size=1).map(lambda found: tuple(found.items()))
whens = st.one_of(
    st.tuples(st.just("ago"), st.integers(0, 61 * 86_400)),
    st.tuples(st.just("start of month"), st.integers(0, 3)),
    st.tuples(st.just("end of month"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["now", "too far ahead", "just ahead", "too far back", "just back"]), st.just(0)),
)
"""Times of calls, in relation to now."""
new_calls = st.tuples(account_ids, whens, st.sampled_from(APIS), st.sampled_from(CODES))
NewCall = tuple[str, tuple[str, int], str, str]


class Machine(RuleBasedStateMachine):
    """Does anything that can be done to the service."""

    def __init__(self, driver: Driver, books: type[Books] = Books) -> None:
        super().__init__()
        self._driver = driver
        self._books_type = books
        self._sent: list[Call] = []
        self._running: Any = None

    @initialize(
        zone=st.sampled_from(ZONES),
        day=st.integers(0, 364),
        second=st.integers(0, 86_399),
        currency=currencies,
        prices=price_lists,
    )
    def begin(self, zone: str, day: int, second: int, currency: str, prices: tuple[tuple[str, Price], ...]) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, seconds=second)
        self.books = self._books_type(zone, now)
        self._running = self._driver.start(zone, now)
        self.put_plan("p", currency, prices)
        self.activate("ann", currency, "p")

    def teardown(self) -> None:
        if self._running is not None:
            self._driver.run(self._running.drop())

    # What can be done

    @rule(plan_id=plan_ids, currency=currencies, prices=price_lists)
    def put_plan(self, plan_id: str, currency: str, prices: tuple[tuple[str, Price], ...]) -> None:
        plan = self.expected(lambda: self.books.put_plan(plan_id, currency, prices))
        sent = told.plan_message(Plan(plan_id, 0, currency, prices))
        found = self.answered(self.service.put_plan(sent))
        assert (plan if isinstance(plan, str) else plan.version) == (found if isinstance(found, str) else found.version)

    @rule(account_id=account_ids, currency=currencies, plan_id=plan_ids | st.just(""))
    def activate(self, account_id: str, currency: str, plan_id: str) -> None:
        refused = self.expected(lambda: self.books.activate(account_id, currency, plan_id))
        found = self.answered(self.service.activate(account_id, plan_id, currency))
        assert refused == (found if isinstance(found, str) else None)

    @rule(account_id=account_ids, plan_id=plan_ids, back=months_back)
    def assign_plan(self, account_id: str, plan_id: str, back: int) -> None:
        month = self.month(back)
        refused = self.expected(lambda: self.books.assign(account_id, plan_id, month))
        found = self.answered(self.service.assign_plan(account_id, plan_id, told.month_text(month)))
        assert refused == (found if isinstance(found, str) else None)

    @rule(new=new_calls)
    def record(self, new: NewCall) -> None:
        self.send_alone(self.made(new))

    @rule(new=st.lists(new_calls, min_size=1, max_size=6), again=st.lists(st.integers(0, 50), max_size=3))
    def record_batch(self, new: list[NewCall], again: list[int]) -> None:
        calls = list(map(self.made, new))
        self.send_together(calls + [self._sent[-1 - number % len(self._sent)] for number in again])

    @rule(new=new_calls, calls=st.integers(96, 120))
    def record_large_batch(self, new: NewCall, calls: int) -> None:
        """So many that they are copied."""
        self.send_together([self.made(new) for _ in range(calls)])

    @precondition(lambda self: self._sent)
    @rule(number=st.integers(0, 50), change=st.sampled_from(["nothing", "nothing", "api", "time of day", "day"]))
    def repeat(self, number: int, change: str) -> None:
        """Send a call once more. Its id on another day makes another call, and nothing else does."""
        call = self._sent[-1 - number % len(self._sent)]
        if change == "api":
            call = replace(call, api="A" if call.api == "B" else "B")
        elif change == "day":
            call = replace(call, at=call.at - 2 * DAY)
        elif change == "time of day" and call in [each.call for each in self.books.calls]:
            later = replace(call, at=call.at + timedelta(seconds=1))
            call = later if self.books.day_of(later.at) == self.books.day_of(call.at) else call
        self.send_alone(call)

    @rule(account_id=account_ids | st.just(""), however_old=st.booleans())
    def retry_rejected(self, account_id: str, however_old: bool) -> None:  # noqa: FBT001 - as it is asked for
        became = self.books.retry(account_id, however_old=however_old)
        request = accounts_pb.RetryRejectedCallsRequest(account_id=account_id, however_old=however_old)
        found = self.wait(self.service.accounts.RetryRejectedCalls(request))
        assert Counter(
            recorded=found.recorded, duplicates=found.duplicates, still_rejected=found.still_rejected
        ) == Counter(became)

    @rule(back=months_back, dry_run=st.booleans())
    def close_month(self, back: int, dry_run: bool) -> None:  # noqa: FBT001 - as it is asked for
        month = self.month(back)
        books = deepcopy(self.books) if dry_run else self.books
        expected = self.expected(lambda: books.close(month))
        request = CloseMonthRequest(month=told.month_text(month), dry_run=dry_run)
        found = self.answered(self.service.metering.CloseMonth(request))
        assert expected == (found if isinstance(found, str) else told.closed(found))

    @rule(account_id=account_ids, back=months_back)
    def deduct(self, account_id: str, back: int) -> None:
        month = self.month(back)
        expected = self.expected(lambda: self.books.deduct(account_id, month))
        request = DeductRequest(account_id=account_id, month=told.month_text(month))
        found = self.answered(self.service.metering.Deduct(request))
        if isinstance(found, str):
            assert expected == found
            return
        bill = self.books.accounts[account_id].bills[month]
        assert (expected, bill) == (told.amount(found.deducted), told.bill(found.bill))
        assert told.amount(found.outstanding) == bill.total - bill.deducted
        self.assert_status(self.books.accounts[account_id], found.service_status)

    @rule(
        account_id=account_ids,
        minor_units=st.integers(1, 400),
        what=st.sampled_from(["some", "all that is outstanding", "all but one", "one more", "another currency"]),
        payment=st.integers(1, 9),
    )
    def pay(self, account_id: str, minor_units: int, what: str, payment: int) -> None:
        account = self.books.accounts.get(account_id)
        currency = account.currency if account else "CNY"
        minor_unit = Fraction(1, 10 ** MINOR_UNITS[currency])
        outstanding = account.outstanding if account else Fraction(0)
        amount = {"all that is outstanding": outstanding, "all but one": outstanding - minor_unit}.get(
            what, Fraction(0)
        )
        if what == "one more":
            amount = outstanding + minor_unit
        if amount <= 0:
            amount = minor_units * minor_unit
        if what == "another currency":
            currency, amount = ("CNY" if currency == "JPY" else "JPY"), Fraction(1)
        expected = self.expected(lambda: self.books.pay(account_id, amount, currency, str(payment)))
        money = Money(currency_code=currency, units=int(amount), nanos=int(amount % 1 * 10**9))
        request = accounts_pb.RecordPaymentRequest(account_id=account_id, amount=money, payment_id=str(payment))
        found = self.answered(self.service.accounts.RecordPayment(request))
        if isinstance(found, str):
            assert expected == found
        else:
            assert expected == (found.duplicate, [told.month(bill.month) for bill in found.settled_bills])
            bills = self.books.accounts[account_id].bills
            assert [told.bill(bill) for bill in found.settled_bills] == [bills[month] for month in expected[1]]

    @rule(to=st.sampled_from([1, 2, 3]), short_of=st.sampled_from([0, 0, 1, -1]))
    def time_passes_to_day(self, to: int, short_of: int) -> None:
        """To the very beginning of day 1, 2 or 3 of a month, or a microsecond before or after."""
        day = self.books.today.replace(day=to)
        start = self.start_of(day) - short_of * MICROSECOND
        if start <= self.books.now:
            start = self.start_of(month_after(day).replace(day=to)) - short_of * MICROSECOND
        self.set_time(start)

    @rule(seconds=st.integers(1, 20 * 86_400))
    def time_passes(self, seconds: int) -> None:
        self.set_time(self.books.now + timedelta(seconds=seconds))

    @rule()
    def run_month(self) -> None:
        self.preview_run_month()
        expected = self.books.run_month()
        run = self.wait(self.service.accounts.RunMonth(accounts_pb.RunMonthRequest())).run
        assert expected == told.run(run)

    def preview_run_month(self) -> None:
        """What the run would do is what it then does to each account."""
        would_be = deepcopy(self.books)
        would_be.run_month()
        previews = {each.account_id: each for each in self.wait(self.previews())}
        for account_id, before in self.books.accounts.items():
            after = would_be.accounts[account_id]
            preview = previews.get(account_id, accounts_pb.PreviewRunMonthResponse())
            issued = [
                replace(bill, lines=()) for month, bill in sorted(after.bills.items()) if month not in before.bills
            ]
            assert list(map(told.bill, preview.bills)) == issued
            assert told.amount(preview.deducted) == before.balance - after.balance
            assert preview.suspends == (not before.overdue and bool(after.overdue))
            if account_id in previews:
                assert told.amount(preview.outstanding) == after.outstanding

    @rule()
    def restart(self) -> None:
        """A service that starts does the monthly run at once, if one is due, and forgets old rejected calls."""
        self.wait(self._running.restart())
        if self.books.run_is_due():
            self.books.run_month()
            self.wait(until(self.newest_run_is_of_today))
        self.books.purge()
        self.wait(until(self.rejected_calls_are_as_expected))

    # Doing it

    @property
    def service(self) -> Any:
        return self._running.service

    def wait(self, doing: Awaitable[T]) -> T:
        async def wait() -> T:
            return await doing

        return self._driver.run(wait())

    def expected(self, do: Callable[[], T]) -> T | str:
        """Return what the model comes to, or the reason why it refuses."""
        try:
            return do()
        except RefusedError as refused:
            return str(refused)

    def answered(self, rpc: Awaitable[T]) -> T | str:
        """Return what the service answers, or the reason why it refuses."""
        try:
            return self.wait(rpc)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)

    def month(self, back: int) -> date:
        month = first_of(self.books.today)
        for _ in range(back):
            month = first_of(month - DAY)
        return month_after(month) if back < 0 else month

    def start_of(self, day: date) -> datetime:
        """Return the first microsecond of a day, looked for by halves."""
        before = datetime(day.year, day.month, day.day, tzinfo=UTC) - DAY
        after = before + 2 * DAY
        while after - before > MICROSECOND:
            middle = before + (after - before) // 2
            before, after = (middle, after) if self.books.day_of(middle) < day else (before, middle)
        return after

    def set_time(self, now: datetime) -> None:
        self.books.now = self._running.clock.time = now

    def made(self, new: NewCall) -> Call:
        account_id, when, api, code = new
        call = Call(account_id, len(self._sent) + 1, self.time_of(*when), api, code)
        self._sent.append(call)
        return call

    def time_of(self, what: str, number: int) -> datetime:
        now = self.books.now
        if what == "start of month":
            return self.start_of(self.month(number))
        if what == "end of month":
            return self.start_of(self.month(number)) - MICROSECOND
        return {
            "ago": now - timedelta(seconds=number),
            "now": now,
            "just ahead": now + AHEAD,
            "too far ahead": now + AHEAD + MICROSECOND,
            "just back": now - BACK,
            "too far back": now - BACK - MICROSECOND,
        }[what]

    def send_alone(self, call: Call) -> None:
        expected = self.expected(lambda: self.books.record(call))
        found = self.answered(self.service.record(told.message(call)))
        if isinstance(found, str):
            assert expected == found
        else:
            assert expected == (found.duplicate, told.month(found.billing_month))
            self.assert_status(self.books.accounts[call.account_id], found.service_status)

    def send_together(self, calls: Sequence[Call]) -> None:
        expected = [self.expected(lambda call=call: self.books.record(call)) for call in calls]
        found = self.wait(self.service.record_batch(list(map(told.message, calls))))
        rejections = {index: reason for index, reason in enumerate(expected) if isinstance(reason, str)}
        assert {each.index: each.reason for each in found.rejections} == rejections
        duplicates = sum(each[0] for each in expected if not isinstance(each, str))
        assert (found.accepted, found.duplicates) == (len(calls) - len(rejections) - duplicates, duplicates)
        recorded = {call.account_id for index, call in enumerate(calls) if index not in rejections}
        suspended = {account_id for account_id in recorded if self.books.accounts[account_id].overdue}
        assert {each.account_id for each in found.not_active} >= suspended

    async def previews(self) -> list[accounts_pb.PreviewRunMonthResponse]:
        stream = self.service.accounts.PreviewRunMonth(accounts_pb.PreviewRunMonthRequest())
        return [each async for each in stream]

    async def newest_run_is_of_today(self) -> bool:
        request = accounts_pb.ListMonthlyRunsRequest(page_size=1)
        (run,) = (await self.service.accounts.ListMonthlyRuns(request)).runs
        return run.run_on == self.books.today.isoformat() and run.HasField("finished_at")

    async def rejected_calls_are_as_expected(self) -> bool:
        return await self.rejected_calls() == self.expected_rejected_calls()

    # What must hold after each step

    @invariant()
    def service_and_model_tell_the_same(self) -> None:
        if self._running is not None:
            self._driver.steps += 1
            self.wait(self.compare())

    async def compare(self) -> None:
        months = sorted({each.billing_month for each in self.books.calls} | self.books.closed)
        async with asyncio.TaskGroup() as tasks:
            for account in self.books.accounts.values():
                tasks.create_task(self.compare_account(account))
                for month in months:
                    tasks.create_task(self.compare_usage(account.account_id, month))
            tasks.create_task(self.compare_books())

    async def compare_account(self, expected: Account) -> None:
        found = await self.service.account(expected.account_id)
        assert (found.currency, told.amount(found.balance)) == (expected.currency, expected.balance)
        self.assert_status(expected, found.service_status)
        plans = {
            told.month(each.from_month) if each.from_month else date.min: each.price_plan_id
            for each in found.price_plans
        }
        assert plans == expected.plans

        async def heard_of() -> bool:
            return (await self.service.status(expected.account_id)).version >= found.service_status.version

        await until(heard_of)
        self.assert_status(expected, await self.service.status(expected.account_id))
        listed = await self.service.accounts.ListBills(accounts_pb.ListBillsRequest(account_id=expected.account_id))
        bills: list[Bill] = list(map(told.bill, listed.bills))
        assert bills == [bill for _, bill in sorted(expected.bills.items(), reverse=True)]

    def assert_status(self, expected: Account, found: pb.ServiceStatus) -> None:
        suspended = bool(expected.overdue)
        assert found.state == (pb.SERVICE_STATE_SUSPENDED if suspended else pb.SERVICE_STATE_ACTIVE)
        assert told.amount(found.outstanding) == expected.outstanding
        overdue = ", ".join(map(told.month_text, expected.overdue))
        assert found.reason.startswith(f"overdue: the bill of {overdue};" if suspended else "")
        assert bool(found.reason) == suspended

    async def compare_usage(self, account_id: str, month: date) -> None:
        found = told.usage(await self.service.usage(account_id, told.month_text(month)))
        assert found == self.books.usage(account_id, month)

    async def compare_books(self) -> None:
        assert await self.rejected_calls() == self.expected_rejected_calls()
        query = (
            "SELECT account_id, amount, kind, payment_id, bill_month FROM ledger_entries ORDER BY account_id, entry_id"
        )
        found = [
            (
                row["account_id"],
                Fraction(row["amount"]),
                f"payment {row['payment_id']}" if row["payment_id"] else told.month_text(row["bill_month"]),
            )
            for row in await self._running.db.fetch(query)
        ]
        assert found == [
            (account.account_id, *entry)
            for _, account in sorted(self.books.accounts.items())
            for entry in account.ledger
        ]
        audit = await self._running.audit()
        assert audit.clean, audit.differences
        assert dict(audit.totals) == self.books.totals()

    async def rejected_calls(self) -> list[tuple[Call, str, date | None]]:
        found = await self.service.accounts.ListRejectedCalls(accounts_pb.ListRejectedCallsRequest(page_size=1_000))
        assert not found.next_page_token
        calls = [
            (told.call(each.call), each.reason, told.month(each.billing_month) if each.billing_month else None)
            for each in found.rejected_calls
        ]
        return sorted(calls, key=by_call)

    def expected_rejected_calls(self) -> list[tuple[Call, str, date | None]]:
        calls = [(each.call, each.reason, each.billing_month) for each in self.books.rejected]
        return sorted(calls, key=by_call)


def by_call(rejected: tuple[Call, str, date | None]) -> tuple[str, int, datetime]:
    call = rejected[0]
    return call.account_id, call.call_id, call.at
