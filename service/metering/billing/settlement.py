"""What happens to an account's bills when money is taken: the rules of Deduct and RecordPayment, without a database."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from metering.model import Bill, BillState, EntryKind, LedgerEntry, ServiceState


@dataclass(frozen=True, slots=True)
class Settlement:
    """What deducting comes to."""

    balance: Decimal
    """What is left."""
    entries: tuple[LedgerEntry, ...]
    """One deduction for each bill that money was taken for."""
    changed_bills: tuple[Bill, ...]
    """The bills as they are now, those that have changed."""

    @property
    def deducted(self) -> Decimal:
        """What was taken from the balance."""
        return -sum((entry.amount for entry in self.entries), Decimal(0))

    @property
    def settled_bills(self) -> list[Bill]:
        """The bills that money was taken for."""
        months = {entry.bill_month for entry in self.entries}
        return [bill for bill in self.changed_bills if bill.month in months]

    def after(self, bills: Iterable[Bill]) -> list[Bill]:
        """Return bills of the account as they are now."""
        changed = {bill.month: bill for bill in self.changed_bills}
        return [changed.get(bill.month, bill) for bill in bills]


def settle(balance: Decimal, bills: Iterable[Bill], today: date) -> Settlement:
    """Deduct bills from a balance in the given order, from each as much as there is.

    What is still outstanding of a bill, on its due date or later, is overdue.
    """
    entries: list[LedgerEntry] = []
    changed: list[Bill] = []
    for bill in bills:
        amount = min(balance, bill.outstanding)
        if amount > 0:
            entries.append(LedgerEntry(EntryKind.DEDUCTION, -amount, bill_month=bill.month))
            balance -= amount
        deducted = bill.deducted + amount
        after = replace(bill, deducted=deducted, state=state_of(bill, deducted, today))
        if after != bill:
            changed.append(after)
    return Settlement(balance, tuple(entries), tuple(changed))


def state_of(bill: Bill, deducted: Decimal, today: date) -> BillState:
    """Return the state of a bill after a deduction. ISSUED → PAID, or ISSUED → OVERDUE → PAID; nothing else."""
    if deducted == bill.total:
        return BillState.PAID
    if today >= bill.due_date:
        return BillState.OVERDUE
    return bill.state


def service_state(bills: Iterable[Bill]) -> ServiceState:
    """Return the state of an account that has these bills: it is suspended while one of them is overdue."""
    overdue = any(bill.state is BillState.OVERDUE for bill in bills)
    return ServiceState.SUSPENDED if overdue else ServiceState.ACTIVE
