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
    Booking,
    ClosedMonth,
    Debtor,
    LedgerEntry,
    Money,
    Month,
    MonthlyRunRecord,
    ServiceState,
    ServiceStatus,
    SettlingAccount,
)
from tests.support.service import FakeClock

CALENDAR = BillingCalendar.of_zone("Asia/Shanghai")


@dataclass
class Account:
    """An account; its bills are in the books."""

    account_id: AccountId
    balance: Decimal = Decimal(0)
    state: ServiceState = ServiceState.ACTIVE
    ledger: list[LedgerEntry] = field(default_factory=list)


class LockedAccounts:
    """Accounts, locked."""

    def __init__(self, books: "RunBooks", account_ids: Sequence[AccountId]) -> None:
        self._books = books
        self.accounts = [
            SettlingAccount(account.account_id, "CNY", account.balance, account.state, books.unpaid_bills(account_id))
            for account_id, account in sorted(books.accounts.items())
            if account_id in account_ids
        ]

    async def payment(self, account_id: AccountId, payment_id: str) -> Decimal | None:
        ledger = self._books.accounts[account_id].ledger
        return next((entry.amount for entry in ledger if entry.payment_id == payment_id), None)

    async def bills(self, account_id: AccountId, months: Sequence[Month]) -> list[Bill]:
        return [self._books.bills[account_id, month] for month in months if (account_id, month) in self._books.bills]

    async def book(self, bookings: Sequence[Booking], now: datetime) -> None:
        self._books.step()
        for booking in bookings:
            account = self._books.accounts[booking.account_id]
            account.ledger.extend(booking.entries)
            account.balance, account.state = booking.balance, booking.state
            self._books.bills.update({(booking.account_id, bill.month): bill for bill in booking.bills})

    async def status(self, account_id: AccountId) -> ServiceStatus:
        return ServiceStatus(account_id, self._books.accounts[account_id].state, "", Money(Decimal(0), "CNY"), 1)


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
        self.accounts.setdefault(account_id, Account(account_id))
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

    def unpaid_bills(self, account_id: AccountId) -> tuple[Bill, ...]:
        bills = (bill for (owes, _), bill in sorted(self.bills.items()) if owes == account_id)
        return tuple(bill for bill in bills if bill.state is not BillState.PAID)

    async def debtors(self, chunk: int) -> AsyncIterator[list[Debtor]]:
        unpaid = {account_id: self.unpaid_bills(account_id) for account_id in sorted(self.accounts)}
        debtors = [Debtor(account_id, bills[0].month) for account_id, bills in unpaid.items() if bills]
        for start in range(0, len(debtors), chunk):
            self.step()
            yield debtors[start : start + chunk]

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        totals = [bill.total for (_, billed), bill in self.bills.items() if billed == month]
        return len(totals), [Money(sum(totals, Decimal(0)), "CNY")] if totals else []

    @asynccontextmanager
    async def locked_accounts(self, account_ids: Sequence[AccountId]) -> AsyncIterator[LockedAccounts]:
        self.step()
        for account_id in account_ids:
            if account_id in self.defects:
                raise self.defects[account_id]
        yield LockedAccounts(self, account_ids)


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


def collector(books: RunBooks, clock: FakeClock) -> Collector:
    return Collector(books, CALENDAR, clock)


def replica(books: RunBooks, clock: FakeClock, name: str = "replica") -> MonthlyRun:
    return MonthlyRun(books, books, Closer(books, clock), collector(books, clock), CALENDAR, clock, name)
