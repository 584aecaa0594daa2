"""What is done to the service and to the model, in any order."""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial

from google.type.money_pb2 import Money
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from tests.model import told
from tests.model.drawing import (
    ZONES,
    NewCall,
    Prices,
    account_ids,
    all_prices,
    calls_in_time,
    currencies,
    months_back,
    new_calls,
    plan_ids,
    price_lists,
    thens,
)
from tests.model.driver import Driver, until
from tests.model.reference import Books
from tests.model.reference_rating import MINOR_UNITS, Plan
from tests.model.side_by_side import DAY, MICROSECOND, SideBySide
from tests.model.values import Call, month_after

SHARES = {"all that is outstanding": 0, "all but one": -1, "one more": 1}
"""What is paid of what is outstanding: so many minor units more or less."""


class Machine(SideBySide):
    """Does anything that can be done to the service."""

    def __init__(self, driver: Driver, books: type[Books] = Books) -> None:
        super().__init__(driver, books)
        self._sent: list[Call] = []

    @initialize(
        zone=st.sampled_from(ZONES),
        day=st.integers(0, 364),
        second=st.integers(0, 86_399),
        currency=currencies,
        prices=all_prices,
    )
    def begin(self, zone: str, day: int, second: int, currency: str, prices: Prices) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, seconds=second)
        self.start(zone, now)
        self.put_plan("p", currency, prices)
        self.activate("ann", currency, "p")
        self.activate("bob", currency, "p")

    # What can be done

    @rule(plan_id=plan_ids, currency=currencies, prices=price_lists)
    def put_plan(self, plan_id: str, currency: str, prices: Prices) -> None:
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

    @rule(new=calls_in_time, calls=st.integers(96, 120))
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

    @rule(back=months_back)
    def close_month(self, back: int) -> None:
        """A dry run tells what closing then comes to, and changes nothing."""
        month = self.month(back)
        would_be = deepcopy(self.books)
        for dry_run, books in ((True, would_be), (False, self.books)):
            expected = self.expected(partial(books.close, month))
            found = self.answered(self.service.close_month(told.month_text(month), dry_run=dry_run))
            assert expected == (found if isinstance(found, str) else told.closed(found))

    @rule(account_id=account_ids, back=months_back)
    def deduct(self, account_id: str, back: int) -> None:
        month = self.month(back)
        expected = self.expected(lambda: self.books.deduct(account_id, month))
        found = self.answered(self.service.deduct(account_id, told.month_text(month)))
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
        what=st.sampled_from(["some", *SHARES, "another currency"]),
        payment=st.integers(1, 9),
    )
    def pay(self, account_id: str, minor_units: int, what: str, payment: int) -> None:
        account = self.books.accounts.get(account_id)
        currency = account.currency if account else "CNY"
        minor_unit = Fraction(1, 10 ** MINOR_UNITS[currency])
        outstanding = account.outstanding if account else Fraction(0)
        amount = minor_units * minor_unit
        if what in SHARES and outstanding + SHARES[what] * minor_unit > 0:
            amount = outstanding + SHARES[what] * minor_unit
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

    @rule(to=st.sampled_from([1, 2, 3]), short_of=st.sampled_from([0, 0, 1, -1]), then=thens)
    def time_passes_to_day(self, to: int, short_of: int, then: str) -> None:
        """To the very beginning of day 1, 2 or 3 of a month, or a microsecond before or after."""
        start = self.start_of(self.books.today.replace(day=to)) - short_of * MICROSECOND
        if start <= self.books.now:
            start = self.start_of(month_after(self.books.today).replace(day=to)) - short_of * MICROSECOND
        self.set_time(start, then)

    @rule(seconds=st.integers(1, 20 * 86_400), then=thens)
    def time_passes(self, seconds: int, then: str) -> None:
        self.set_time(self.books.now + timedelta(seconds=seconds), then)

    @rule()
    def run_month(self) -> None:
        self.preview_run_month()
        expected = self.books.run_month()
        run = self.wait(self.service.run_month())
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

    def restart(self) -> None:
        """A service that starts does the monthly run at once, if one is due, and forgets old rejected calls."""
        self.wait(self.running.restart())
        if self.books.run_is_due():
            self.books.run_month()
            self.wait(until(self.newest_run_is_of_today))
        self.books.purge()
        self.wait(until(self.rejected_calls_are_as_expected))

    def set_time(self, now: datetime, then: str) -> None:
        self.books.now = self.running.clock.time = now
        if then == "run month":
            self.run_month()
        elif then == "restart":
            self.restart()

    # Sending calls, and what else is done at more than one place

    def made(self, new: NewCall) -> Call:
        account_id, when, api, code = new
        call = Call(account_id, len(self._sent) + 1, self.time_of(*when), api, code)
        self._sent.append(call)
        return call

    def send_alone(self, call: Call) -> None:
        expected = self.expected(lambda: self.books.record(call))
        found = self.answered(self.service.record(told.message(call)))
        if isinstance(found, str):
            assert expected == found
        else:
            assert expected == (found.duplicate, told.month(found.billing_month))
            self.assert_status(self.books.accounts[call.account_id], found.service_status)

    def send_together(self, calls: Sequence[Call]) -> None:
        expected = [self.expected(partial(self.books.record, call)) for call in calls]
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
