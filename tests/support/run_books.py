"""Books in memory that a monthly run can be done on, and interrupted on at any step."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal

from metering.billing.close import MonthCloser
from metering.billing.deduct import Collector
from metering.billing.monthly_run import MonthlyRun
from metering.billing.months import BillingCalendar, due_date, format_month
from metering.errors import DatabaseUnavailableError
from metering.model import (
    AccountId,
    Bill,
    BillState,
    ClosedMonth,
    LedgerEntry,
    Money,
    Month,
    MonthlyRunRecord,
    ServiceState,
    ServiceStatus,
)
from tests.support.service import FakeClock

CALENDAR = BillingCalendar.of_zone("Asia/Shanghai")


@dataclass
class Account:
    """An account, locked or not."""

    books: "RunBooks"
    account_id: AccountId
    balance: Decimal = Decimal(0)
    state: ServiceState = ServiceState.ACTIVE
    currency: str = "CNY"
    ledger: list[LedgerEntry] = field(default_factory=list)

    async def payment(self, payment_id: str) -> Decimal | None:
        return next((entry.amount for entry in self.ledger if entry.payment_id == payment_id), None)

    async def bill(self, month: Month) -> Bill | None:
        return self.books.bills.get((self.account_id, month))

    async def unpaid_bills(self) -> list[Bill]:
        bills = (bill for (account_id, _), bill in sorted(self.books.bills.items()) if account_id == self.account_id)
        return [bill for bill in bills if bill.state is not BillState.PAID]

    async def book(
        self,
        entries: Sequence[LedgerEntry],
        bills: Sequence[Bill],
        balance: Decimal,
        state: ServiceState,
        now: datetime,
    ) -> None:
        self.books.step()
        stored = self.books.accounts[self.account_id]
        stored.ledger.extend(entries)
        stored.balance, stored.state = balance, state
        self.books.bills.update({(self.account_id, bill.month): bill for bill in bills})

    async def status(self) -> ServiceStatus:
        return ServiceStatus(self.account_id, self.state, "", Money(Decimal(0), "CNY"), 1)


@dataclass
class RunBooks:
    """Accounts, what each owes for each month, and everything that is done, in order."""

    owed: dict[tuple[AccountId, Month], Decimal] = field(default_factory=dict)
    accounts: dict[AccountId, Account] = field(default_factory=dict)
    bills: dict[tuple[AccountId, Month], Bill] = field(default_factory=dict)
    closed: set[Month] = field(default_factory=set)
    runs: list[MonthlyRunRecord] = field(default_factory=list)
    notes: int = 0
    done_on: date | None = None
    """The day up to which there was no work when the books were opened."""
    busy: bool = False
    done_meanwhile: date | None = None
    """The day whose run another replica ends while this one waits for its turn."""
    steps_left: int | None = None
    """After so many more steps the database is away, until this is set again; None: never."""
    defects: dict[AccountId | Month, Exception] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def add(self, name: str, month: Month, amount: str) -> None:
        account_id = AccountId(name)
        self.accounts.setdefault(account_id, Account(self, account_id))
        self.owed[account_id, month] = Decimal(amount)

    def step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise DatabaseUnavailableError("away")

    @asynccontextmanager
    async def only_run(self) -> AsyncIterator[bool]:
        if self.done_meanwhile:
            self.done_on = self.done_meanwhile
        if self.busy:
            yield False
            return
        self.busy = True
        try:
            yield True
        finally:
            self.busy = False

    async def last_runs(self, day: date) -> tuple[date | None, datetime | None]:
        ended = [run for run in self.runs if run.finished_at]
        days = [run.run_on for run in ended if not run.failures]
        failed = [run.finished_at for run in ended if run.failures and run.run_on == day and run.finished_at]
        return max([*days, *([self.done_on] if self.done_on else [])], default=None), max(failed, default=None)

    async def begin(self, day: date, replica: str, now: datetime) -> MonthlyRunRecord:
        assert self.busy
        self.step()
        self.runs.append(MonthlyRunRecord(len(self.runs) + 1, day, replica, now))
        return replace(self.runs[-1])

    async def note(self, run: MonthlyRunRecord) -> None:
        assert self.busy
        self.step()
        self.notes += 1
        self.runs[run.run_id - 1] = replace(run)

    async def months_to_close(self, before: Month, look_back_to: Month) -> list[Month]:
        assert self.busy
        self.step()
        return sorted({month for account_id, month in self.owed.keys() - self.bills.keys() if month < before})

    async def unpaid_bills(self, chunk: int) -> AsyncIterator[list[tuple[AccountId, Month]]]:
        keys = [key for key, bill in sorted(self.bills.items()) if bill.state is not BillState.PAID]
        for start in range(0, len(keys), chunk):
            self.step()
            yield keys[start : start + chunk]

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        totals = [bill.total for (_, billed), bill in self.bills.items() if billed == month]
        return len(totals), [Money(sum(totals, Decimal(0)), "CNY")] if totals else []

    @asynccontextmanager
    async def locked_account(self, account_id: AccountId) -> AsyncIterator[Account | None]:
        self.step()
        yield replace(self.accounts[account_id]) if account_id in self.accounts else None


class Closer(MonthCloser):
    """Seals, then issues bills account by account."""

    def __init__(self, books: RunBooks, clock: FakeClock) -> None:
        self._books = books
        self._clock = clock

    async def close(self, month: Month, *, dry_run: bool = False) -> ClosedMonth:
        assert not dry_run
        books = self._books
        if month in books.defects:
            raise books.defects[month]
        books.step()
        already_closed = month in books.closed
        books.closed.add(month)
        for account_id, owed_for in sorted(books.owed):
            if owed_for == month and (account_id, month) not in books.bills:
                books.step()
                books.bills[account_id, month] = self._bill_of(account_id, month, books.owed[account_id, month])
        books.done.append(f"close {format_month(month)}")
        return ClosedMonth(0, (), (), already_closed)

    def _bill_of(self, account_id: AccountId, month: Month, total: Decimal) -> Bill:
        assert month < CALENDAR.today(self._clock.now()).replace(day=1), "a month that has not ended was closed"
        return Bill(
            account_id=account_id,
            month=month,
            currency="CNY",
            state=BillState.ISSUED if total else BillState.PAID,
            total=total,
            deducted=Decimal(0),
            issued_at=self._clock.now(),
            due_date=due_date(month),
        )


class Deductor(Collector):
    """Deducts as ever, but for accounts with a defect."""

    def __init__(self, books: RunBooks, clock: FakeClock) -> None:
        super().__init__(books, CALENDAR, clock)
        self._books = books

    @asynccontextmanager
    async def _locked(self, account_id: AccountId) -> AsyncIterator[Account]:
        if account_id in self._books.defects:
            raise self._books.defects[account_id]
        async with self._books.locked_account(account_id) as account:
            assert account is not None
            yield account


def replica(books: RunBooks, clock: FakeClock, name: str = "replica") -> MonthlyRun:
    return MonthlyRun(books, books, Closer(books, clock), Deductor(books, clock), CALENDAR, clock, name)
