"""Deduct and RecordPayment: taking the money for bills, and what that does to the service."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from metering.billing.currencies import has_fraction_of_minor_unit
from metering.billing.months import BillingCalendar, format_month
from metering.billing.settlement import Settlement, service_state, settle
from metering.clock import Clock
from metering.errors import MeteringError, Reason, account_not_found, invalid_field, retry_conflicts
from metering.model import (
    AccountId,
    Bill,
    EntryKind,
    LedgerEntry,
    Money,
    Month,
    ServiceState,
    ServiceStatus,
)

BALANCE_MAX = Decimal(10) ** 18
"""What a google.type.Money can hold, and more than anybody pays."""


class LockedAccount(Protocol):
    """One account, locked until its transaction ends."""

    account_id: AccountId
    currency: str
    balance: Decimal
    state: ServiceState

    async def payment(self, payment_id: str) -> Decimal | None:
        """Return the amount of a payment, None if it was not booked."""

    async def bill(self, month: Month) -> Bill | None:
        """Return the bill of a month, None if there is none."""

    async def unpaid_bills(self) -> list[Bill]:
        """Return the bills that are not paid, oldest first."""

    async def book(
        self,
        entries: Sequence[LedgerEntry],
        bills: Sequence[Bill],
        balance: Decimal,
        state: ServiceState,
        now: datetime,
    ) -> None:
        """Append entries to the ledger, and set what they change."""

    async def status(self) -> ServiceStatus:
        """Return the service status as it is after what was booked."""


class Ledger(Protocol):
    """Where accounts are locked."""

    def locked_account(self, account_id: AccountId) -> AbstractAsyncContextManager[LockedAccount | None]:
        """Lock an account for one transaction; None if there is no such account."""


@dataclass(frozen=True, slots=True)
class Deduction:
    """What a Deduct came to."""

    bill: Bill
    deducted: Money
    """What this one took."""
    suspended: bool
    """This one suspended the account."""
    status: ServiceStatus


class Collector:
    """Takes money for bills. All methods may be repeated; raise MeteringError."""

    def __init__(self, ledger: Ledger, calendar: BillingCalendar, clock: Clock) -> None:
        self._ledger = ledger
        self._calendar = calendar
        self._clock = clock

    @retry_conflicts
    async def deduct(self, account_id: AccountId, month: Month) -> Deduction:
        """Take from the balance what is outstanding of a bill, as much as there is.

        From the due date on, what is still outstanding is then overdue, and the account is suspended.
        Raises ACCOUNT_NOT_FOUND, BILL_NOT_FOUND.
        """
        async with self._locked(account_id) as account:
            bill = await account.bill(month)
            if bill is None:
                msg = f"{account_id} has no bill for {format_month(month)}; is the month closed?"
                raise MeteringError(Reason.BILL_NOT_FOUND, msg)
            before = account.state
            settlement = await self._settle(account, [bill])
            (bill,) = settlement.after([bill])
            suspended = before is ServiceState.ACTIVE and account.state is ServiceState.SUSPENDED
            return Deduction(bill, Money(settlement.deducted, account.currency), suspended, await account.status())

    @retry_conflicts
    async def record_payment(self, account_id: AccountId, amount: Money, payment_id: str) -> tuple[bool, list[Bill]]:
        """Book a payment, and settle the oldest bills first.

        Returns whether it had been booked before, and the bills that money was taken for.
        Raises ACCOUNT_NOT_FOUND, CURRENCY_MISMATCH, PAYMENT_ID_REUSED, INVALID_FIELD.
        """
        async with self._locked(account_id) as account:
            _check_amount(account, amount)
            booked = await account.payment(payment_id)
            if booked is not None and booked != amount.amount:
                msg = f"payment_id: {payment_id} was booked with {booked} {account.currency}, not {amount.amount}"
                raise MeteringError(Reason.PAYMENT_ID_REUSED, msg)
            if booked is not None:
                return True, []
            if account.balance + amount.amount > BALANCE_MAX:
                raise invalid_field("amount", f"{amount.amount} is too much; a balance is at most {BALANCE_MAX}")
            account.balance += amount.amount
            payment = LedgerEntry(EntryKind.PAYMENT, amount.amount, payment_id=payment_id)
            settlement = await self._settle(account, await account.unpaid_bills(), payment)
            taken = {entry.bill_month for entry in settlement.entries}
            return False, [bill for bill in settlement.changed_bills if bill.month in taken]

    async def _settle(self, account: LockedAccount, bills: Sequence[Bill], *payments: LedgerEntry) -> Settlement:
        """Deduct bills, and suspend or reactivate the account, all in its transaction."""
        now = self._clock.now()
        settlement = settle(account.balance, bills, self._calendar.today(now))
        state = service_state(settlement.after(await account.unpaid_bills()))
        if payments or settlement.changed_bills or state != account.state:
            entries = [*payments, *settlement.entries]
            await account.book(entries, settlement.changed_bills, settlement.balance, state, now)
            account.balance, account.state = settlement.balance, state
        return settlement

    @asynccontextmanager
    async def _locked(self, account_id: AccountId) -> AsyncIterator[LockedAccount]:
        async with self._ledger.locked_account(account_id) as account:
            if account is None:
                raise account_not_found(account_id)
            yield account


def _check_amount(account: LockedAccount, amount: Money) -> None:
    """Raise MeteringError unless an amount can be paid into an account."""
    if amount.currency != account.currency:
        msg = f"amount.currency_code: {account.account_id} is in {account.currency}, not {amount.currency!r}"
        raise MeteringError(Reason.CURRENCY_MISMATCH, msg)
    if amount.amount <= 0:
        raise invalid_field("amount", f"{amount.amount} is not more than 0; there are no refunds")
    if has_fraction_of_minor_unit(amount.amount, amount.currency):
        raise invalid_field("amount", f"{amount.amount} has more decimals than {amount.currency}")
