"""Who bills: lets time leap from month to month, closes, deducts, takes payments and changes prices meanwhile.

Everything is asked of any replica, several times and at once, as people and schedulers do who got no answer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import grpc

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import metering_service_pb2 as metering_pb
from faceid.metering.v1 import resources_pb2 as pb
from metering.billing.months import BillingCalendar, format_month, month_of, next_month
from metering.model import Month
from tests.support.service import Stubs, amount, reason_of, standard_plan
from tests.torture.clock import SharedClock
from tests.torture.journal import Journal
from tests.torture.raw_client import RETRIABLE
from tests.torture.traffic import ACCOUNTS

T = TypeVar("T")

CALENDAR = BillingCalendar.of_zone("Asia/Shanghai")
BEFORE_MIDNIGHT = timedelta(seconds=4)
AFTER_MIDNIGHT_S = 2.0
"""Calls go on coming in around the turn of the month, through replicas that do not agree on the time."""
ATTEMPT_S = 3.0
DUE_TIME = timedelta(days=2, hours=1)
"""From the start of a month: day 3, when what is outstanding is overdue."""


class Office:
    """Does it, over all replicas."""

    def __init__(self, journal: Journal, rng: random.Random, clock: SharedClock, replicas: Sequence[Stubs]) -> None:
        self._journal = journal
        self._rng = rng
        self._clock = clock
        self._replicas = replicas
        self._payments = 0
        self.closed: list[Month] = []

    async def open(self) -> None:
        """Activate the accounts."""
        await self._ask(lambda replica: replica.put_plan(standard_plan()))
        for account_id in ACCOUNTS:
            await self._ask(activation_of(account_id))
            await self._pay(account_id)

    async def run(self, until: Callable[[], bool]) -> None:
        """Let month after month go by."""
        month = self.present_month()
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 2))
            self._clock.leap_to(CALENDAR.start_of(next_month(month)) - BEFORE_MIDNIGHT)
            if until():
                return
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pay_some())
                await asyncio.sleep(BEFORE_MIDNIGHT.total_seconds() + self._rng.uniform(0, AFTER_MIDNIGHT_S))
                tasks.create_task(self._change_prices(next_month(month)))
                await self._close(month)
            self._clock.leap_to(max(self._clock.now(), CALENDAR.start_of(next_month(month)) + DUE_TIME))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pay_some())
                await self._deduct_all(month)
                await self._run_month()
            month = self.present_month()
            if until():
                return

    def present_month(self) -> Month:
        """Return the month that it is."""
        return month_of(CALENDAR.today(self._clock.now()))

    async def _close(self, month: Month) -> None:
        """Close a month, and note its bills as they are then."""
        name = format_month(month)
        closes = [self._ask(lambda replica: replica.close_month(name)) for _ in range(self._rng.randint(1, 3))]
        for closed in await asyncio.gather(*closes):
            self._journal.write(closed={name: closed.bills_issued})
        bills = await asyncio.gather(*(self._ask(bill_of(account_id, name)) for account_id in ACCOUNTS))
        self._journal.write(
            bills=[(bill.account_id, name, fixed_part(bill)) for bill in bills if bill is not None],
        )
        self.closed.append(month)

    async def _deduct_all(self, month: Month) -> None:
        name = format_month(month)

        async def deduct(account_id: str) -> None:
            answer = await self._ask(deduction_of(account_id, name))
            if answer is not None:
                self._journal.write(deducted=[(account_id, name, str(amount(answer.deducted)))])

        await asyncio.gather(*(deduct(account_id) for account_id in ACCOUNTS for _ in range(2)))

    async def _run_month(self) -> None:
        async def run(replica: Stubs) -> object:
            try:
                return await replica.accounts.RunMonth(accounts_pb.RunMonthRequest(), timeout=ATTEMPT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ABORTED:
                    return None  # another replica is doing it
                raise

        await self._ask(run)

    async def _pay_some(self) -> None:
        for account_id in self._rng.sample(ACCOUNTS, len(ACCOUNTS) // 2):
            await self._pay(account_id)

    async def _pay(self, account_id: str) -> None:
        """Report one payment, perhaps to several replicas at once."""
        self._payments += 1
        payment_id = f"payment-{self._payments}"
        paid = str(Decimal(self._rng.randint(1, 3000)) / 100)
        self._journal.write(paying=[(account_id, payment_id, paid)])

        async def report() -> None:
            answer = await self._ask(lambda replica: replica.pay(account_id, paid, payment_id))
            self._journal.write(paid=[(account_id, payment_id, answer.duplicate)])

        await asyncio.gather(*(report() for _ in range(self._rng.randint(1, 3))))

    async def _change_prices(self, from_month: date) -> None:
        """Put a new version of the plan, and give some accounts a plan of their own from the next month on."""
        plan = standard_plan()
        plan.prices[0].per_call.unit_price = f"0.0{self._rng.randint(100, 999)}"
        await self._ask(lambda replica: replica.put_plan(plan))
        own = standard_plan()
        own.price_plan_id = f"own-{self._rng.randint(1, 3)}"
        own.prices[0].free_calls = self._rng.randint(0, 50)
        await self._ask(lambda replica: replica.put_plan(own))
        for account_id in self._rng.sample(ACCOUNTS, 3):
            await self._ask(assignment_of(account_id, own.price_plan_id, from_month.strftime("%Y-%m")))

    async def _ask(self, request: Callable[[Stubs], Awaitable[T]]) -> T:
        """Ask any replica, and another one, until there is an answer."""
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    return await request(self._rng.choice(self._replicas))
            except TimeoutError:
                continue
            except grpc.aio.AioRpcError as error:
                # A replica whose clock is behind does not know yet that the month has ended.
                early = error.code() is grpc.StatusCode.FAILED_PRECONDITION and reason_of(error) == "MONTH_NOT_ENDED"
                if error.code() not in RETRIABLE and not early:
                    self._journal.write(wrong=f"{error.code().name}: {error.details()}")
                    await asyncio.sleep(1)
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))


def activation_of(account_id: str) -> Callable[[Stubs], Awaitable[pb.Account]]:
    """Return what activates an account."""
    return lambda replica: replica.activate(account_id)


def bill_of(account_id: str, month: str) -> Callable[[Stubs], Awaitable[pb.Bill | None]]:
    """Return what asks for a bill; None: there is none."""
    return lambda replica: _none_if_not_found(replica.bill(account_id, month))


def deduction_of(account_id: str, month: str) -> Callable[[Stubs], Awaitable[metering_pb.DeductResponse | None]]:
    """Return what deducts a bill; None: there is none."""
    return lambda replica: _none_if_not_found(replica.deduct(account_id, month))


def assignment_of(account_id: str, plan: str, month: str) -> Callable[[Stubs], Awaitable[pb.Account | None]]:
    """Return what assigns a plan; None: calls of that month are billed already."""

    async def assign(replica: Stubs) -> pb.Account | None:
        try:
            return await replica.assign_plan(account_id, plan, month)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION and reason_of(error) == "MONTH_ALREADY_BILLED":
                return None
            raise

    return assign


async def _none_if_not_found(asking: Awaitable[T]) -> T | None:
    try:
        return await asking
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def fixed_part(bill: pb.Bill) -> str:
    """Return what of a bill never changes, as text: its lines and its total."""
    fixed = pb.Bill(total=bill.total, lines=bill.lines, due_date=bill.due_date)
    return fixed.SerializeToString(deterministic=True).hex()


def start_time(now: datetime) -> datetime:
    """Return when a torture begins: a few seconds before a month ends."""
    return CALENDAR.start_of(next_month(month_of(CALENDAR.today(now)))) - 2 * BEFORE_MIDNIGHT
