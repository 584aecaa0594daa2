"""Deduct and RecordPayment: taking the money for bills, and what that does to the service."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from metering.billing.currencies import has_fraction_of_minor_unit
from metering.billing.months import BillingCalendar, format_month
from metering.billing.settlement import Settlement, service_state, settle
from metering.clock import Clock
from metering.errors import MeteringError, Reason, account_not_found, invalid_field, retry_conflicts
from metering.loop_load import next_turn
from metering.model import (
    AccountId,
    Bill,
    BillState,
    Booking,
    EntryKind,
    LedgerEntry,
    Money,
    Month,
    ServiceState,
    ServiceStatus,
    SettlingAccount,
)

BALANCE_MAX = Decimal(10) ** 18
"""What a google.type.Money can hold, and more than anybody pays."""
ACCOUNTS_PER_PAUSE = 25
"""So many accounts are a millisecond or two of work."""


class LockedAccounts(Protocol):
    """Some accounts, locked until their transaction ends."""

    @property
    def accounts(self) -> Sequence[SettlingAccount]:
        """Those of them that there are, as they are before anything is booked."""

    async def payment(self, account_id: AccountId, payment_id: str) -> Decimal | None:
        """Return the amount of a payment, None if it was not booked."""

    async def bills(self, account_id: AccountId, months: Sequence[Month]) -> list[Bill]:
        """Return the bills of months, as far as there are any, oldest first, with their lines."""

    async def book(self, bookings: Sequence[Booking], now: datetime) -> None:
        """Append entries to ledgers, and set what they change; once at the most for each account."""

    async def status(self, account_id: AccountId) -> ServiceStatus:
        """Return the service status as it is after what was booked."""


class Ledger(Protocol):
    """Where accounts are locked."""

    def locked_accounts(self, account_ids: Sequence[AccountId]) -> AbstractAsyncContextManager[LockedAccounts]:
        """Lock accounts for one transaction, one after the other in sorted order."""


@dataclass(frozen=True, slots=True)
class Deduction:
    """What a Deduct came to."""

    bill: Bill
    deducted: Money
    """What this one took."""
    status: ServiceStatus


@dataclass(frozen=True, slots=True)
class Collected:
    """What deducting all bills of some accounts came to."""

    bills_paid: int
    deducted: tuple[Money, ...]
    accounts_suspended: int


class Collector:
    """Takes money for bills. All methods may be repeated; raise MeteringError.

    Args:
        ledger: where accounts are locked.
        calendar: of the billing time zone.
        clock: the present time.
        give_way: is awaited as often as there are pieces of work that take a millisecond or so.

    """

    def __init__(
        self,
        ledger: Ledger,
        calendar: BillingCalendar,
        clock: Clock,
        give_way: Callable[[], Awaitable[object]] = next_turn,
    ) -> None:
        self._ledger = ledger
        self._calendar = calendar
        self._clock = clock
        self._give_way = give_way

    @retry_conflicts
    async def deduct(self, account_id: AccountId, month: Month) -> Deduction:
        """Take from the balance what is outstanding of a bill, as much as there is.

        From the due date on, what is still outstanding is then overdue, and the account is suspended.
        Raises ACCOUNT_NOT_FOUND, BILL_NOT_FOUND.
        """
        async with self._locked(account_id) as (locked, account):
            bills = await locked.bills(account_id, [month])
            if not bills:
                msg = f"{account_id} has no bill for {format_month(month)}; is the month closed?"
                raise MeteringError(Reason.BILL_NOT_FOUND, msg)
            settlement = await self._settle(locked, account, bills)
            (bill,) = settlement.after(bills)
            return Deduction(bill, Money(settlement.deducted, account.currency), await locked.status(account_id))

    @retry_conflicts
    async def deduct_all(self, account_ids: Sequence[AccountId]) -> Collected:
        """Deduct all unpaid bills of some accounts, each one's oldest first, in one transaction.

        An account that is not there has nothing to deduct.
        """
        settled: list[tuple[SettlingAccount, Settlement, Booking]] = []
        # All at once, and not while the accounts are locked.
        for _ in range(0, len(account_ids), ACCOUNTS_PER_PAUSE):
            await self._give_way()
        async with self._ledger.locked_accounts(account_ids) as locked:
            now = self._clock.now()
            today = self._calendar.today(now)
            for account in locked.accounts:
                settlement = settle(account.balance, account.unpaid_bills, today)
                settled.append((account, settlement, _booking(account, settlement)))
            await locked.book([booking for account, _, booking in settled if _changes(account, booking)], now)
        return Collected(
            bills_paid=sum(bill.state is BillState.PAID for _, _, booking in settled for bill in booking.bills),
            deducted=tuple(Money(settlement.deducted, account.currency) for account, settlement, _ in settled),
            accounts_suspended=sum(
                account.state is ServiceState.ACTIVE and booking.state is ServiceState.SUSPENDED
                for account, _, booking in settled
            ),
        )

    @retry_conflicts
    async def record_payment(self, account_id: AccountId, amount: Money, payment_id: str) -> tuple[bool, list[Bill]]:
        """Book a payment, and settle the oldest bills first.

        Returns whether it had been booked before, and the bills that money was taken for.
        Raises ACCOUNT_NOT_FOUND, CURRENCY_MISMATCH, PAYMENT_ID_REUSED, INVALID_FIELD.
        """
        async with self._locked(account_id) as (locked, account):
            _check_amount(account, amount)
            booked = await locked.payment(account_id, payment_id)
            if booked is not None and booked != amount.amount:
                msg = f"payment_id: {payment_id} was booked with {booked} {account.currency}, not {amount.amount}"
                raise MeteringError(Reason.PAYMENT_ID_REUSED, msg)
            if booked is not None:
                return True, []
            if account.balance + amount.amount > BALANCE_MAX:
                raise invalid_field("amount", f"{amount.amount} is too much; a balance is at most {BALANCE_MAX}")
            payment = LedgerEntry(EntryKind.PAYMENT, amount.amount, payment_id=payment_id)
            credited = replace(account, balance=account.balance + amount.amount)
            settlement = await self._settle(locked, credited, account.unpaid_bills, payment)
            return False, await locked.bills(account_id, [bill.month for bill in settlement.settled_bills])

    async def _settle(
        self, locked: LockedAccounts, account: SettlingAccount, bills: Sequence[Bill], *payments: LedgerEntry
    ) -> Settlement:
        """Deduct bills, and suspend or reactivate the account, all in its transaction."""
        now = self._clock.now()
        settlement = settle(account.balance, bills, self._calendar.today(now))
        booking = _booking(account, settlement, *payments)
        if _changes(account, booking):
            await locked.book([booking], now)
        return settlement

    @asynccontextmanager
    async def _locked(self, account_id: AccountId) -> AsyncIterator[tuple[LockedAccounts, SettlingAccount]]:
        async with self._ledger.locked_accounts([account_id]) as locked:
            if not locked.accounts:
                raise account_not_found(account_id)
            yield locked, locked.accounts[0]


def _booking(account: SettlingAccount, settlement: Settlement, *payments: LedgerEntry) -> Booking:
    """Return what a settlement, and payments that were added to the balance before, change on an account."""
    return Booking(
        account.account_id,
        (*payments, *settlement.entries),
        settlement.changed_bills,
        settlement.balance,
        service_state(settlement.after(account.unpaid_bills)),
    )


def _changes(account: SettlingAccount, booking: Booking) -> bool:
    return bool(booking.entries or booking.bills or booking.state is not account.state)


def _check_amount(account: SettlingAccount, amount: Money) -> None:
    """Raise MeteringError unless an amount can be paid into an account."""
    if amount.currency != account.currency:
        msg = f"amount.currency_code: {account.account_id} is in {account.currency}, not {amount.currency!r}"
        raise MeteringError(Reason.CURRENCY_MISMATCH, msg)
    if amount.amount <= 0:
        raise invalid_field("amount", f"{amount.amount} is not more than 0; there are no refunds")
    if has_fraction_of_minor_unit(amount.amount, amount.currency):
        raise invalid_field("amount", f"{amount.amount} has more decimals than {amount.currency}")
