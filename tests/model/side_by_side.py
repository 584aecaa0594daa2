"""The real service and the reference model side by side: asking both, and comparing what they tell."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import TypeVar

import grpc
from hypothesis.stateful import RuleBasedStateMachine, invariant

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from tests.model import told
from tests.model.driver import Driver, Running, until
from tests.model.reference import Books
from tests.model.reference_calls import AHEAD, BACK, RefusedError
from tests.model.values import Account, Call, first_of, month_after
from tests.support.service import Service, reason_of

T = TypeVar("T")

MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
LEDGER = """
    SELECT account_id, amount, coalesce('payment ' || payment_id, to_char(bill_month, 'YYYY-MM')) AS what_for
    FROM ledger_entries
    ORDER BY account_id, entry_id
"""

RejectedCall = tuple[Call, str, date | None]


class SideBySide(RuleBasedStateMachine):
    """A state machine with a service and a model, to which a subclass adds what is done to both."""

    def __init__(self, driver: Driver, books: type[Books] = Books) -> None:
        super().__init__()
        self._driver = driver
        self._books_type = books
        self._running: Running | None = None

    def start(self, zone: str, now: datetime) -> None:
        self.books = self._books_type(zone, now)
        self._running = self._driver.start(zone, now)

    def teardown(self) -> None:
        if self._running is not None:
            self._driver.end(self._running, self.books)

    # Asking

    @property
    def running(self) -> Running:
        assert self._running is not None
        return self._running

    @property
    def service(self) -> Service:
        return self.running.service

    def wait(self, doing: Awaitable[T]) -> T:
        return self._driver.wait(doing)

    def expected(self, do: Callable[[], T]) -> T | str:
        """Return what the model comes to, or the reason why it refuses."""
        try:
            return do()
        except RefusedError as refused:
            self._driver.seen[f"refused: {refused}"] += 1
            return str(refused)

    def answered(self, rpc: Awaitable[T]) -> T | str:
        """Return what the service answers, or the reason why it refuses."""
        try:
            return self.wait(rpc)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)

    # Times

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

    # Comparing

    @invariant()
    def service_and_model_tell_the_same(self) -> None:
        if self._running is not None:
            self._driver.seen["steps"] += 1
            self.wait(self.compare())

    async def compare(self) -> None:
        months = sorted({each.billing_month for each in self.books.calls} | self.books.closed)
        try:
            async with asyncio.TaskGroup() as tasks:
                for account in self.books.accounts.values():
                    tasks.create_task(self.compare_account(account))
                    for month in months:
                        tasks.create_task(self.compare_usage(account.account_id, month))
                tasks.create_task(self.compare_books())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # one difference is enough to look at

    async def compare_account(self, expected: Account) -> None:
        found = await self.service.account(expected.account_id)
        assert (found.currency, told.amount(found.balance)) == (expected.currency, expected.balance)
        assert told.assignments(found) == expected.plans
        self.assert_status(expected, found.service_status)
        listed = await self.service.accounts.ListBills(accounts_pb.ListBillsRequest(account_id=expected.account_id))
        bills = list(map(told.bill, listed.bills))
        assert bills == [bill for _, bill in sorted(expected.bills.items(), reverse=True)]

        async def heard_of() -> bool:
            return (await self.service.status(expected.account_id)).version >= found.service_status.version

        await until(heard_of)
        self.assert_status(expected, await self.service.status(expected.account_id))

    def assert_status(self, expected: Account, found: pb.ServiceStatus) -> None:
        suspended = bool(expected.overdue)
        assert found.state == (pb.SERVICE_STATE_SUSPENDED if suspended else pb.SERVICE_STATE_ACTIVE)
        assert told.amount(found.outstanding) == expected.outstanding
        overdue = ", ".join(map(told.month_text, expected.overdue))
        assert found.reason.partition(";")[0] == (f"overdue: the bill of {overdue}" if suspended else "")

    async def compare_usage(self, account_id: str, month: date) -> None:
        found = told.usage(await self.service.usage(account_id, told.month_text(month)))
        assert found == self.books.usage(account_id, month)

    async def compare_books(self) -> None:
        assert await self.rejected_calls() == self.expected_rejected_calls()
        ledger = [
            (row["account_id"], Fraction(row["amount"]), row["what_for"]) for row in await self.running.db.fetch(LEDGER)
        ]
        accounts = sorted(self.books.accounts.items())
        assert ledger == [(account_id, *entry) for account_id, account in accounts for entry in account.ledger]
        audit = await self.running.audit()
        assert audit.differences == []
        assert audit.calls == Counter(self.books.totals())

    async def rejected_calls(self) -> list[RejectedCall]:
        found = await self.service.accounts.ListRejectedCalls(accounts_pb.ListRejectedCallsRequest(page_size=1_000))
        assert not found.next_page_token
        return sorted(map(told.rejected, found.rejected_calls), key=_by_call)

    def expected_rejected_calls(self) -> list[RejectedCall]:
        return sorted(((each.call, each.reason, each.billing_month) for each in self.books.rejected), key=_by_call)


def _by_call(rejected: RejectedCall) -> tuple[str, int, datetime]:
    call = rejected[0]
    return call.account_id, call.call_id, call.at
