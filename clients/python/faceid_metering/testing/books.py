"""What a fake service remembers. Money is Decimal; the rest are the messages of the contract themselves."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from decimal import Decimal
from threading import Condition

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from faceid.metering.v1 import resources_pb2 as pb
from faceid_metering.money import to_decimal, to_money
from faceid_metering.testing import checks
from faceid_metering.testing.clock import FakeClock
from faceid_metering.testing.rating import rate
from faceid_metering.testing.refusal import RefusalError

FROM_THE_BEGINNING = ""
"""The month from which the price plan given at activation holds; it sorts before all others."""


@dataclass
class AccountBook:
    """One account."""

    account_id: str
    currency: str
    activated_at: datetime
    balance: Decimal = Decimal(0)
    version: int = 1
    suspended_by_hand: bool = False
    plans: dict[str, str] = field(default_factory=dict)
    """By the month from which they hold."""
    payments: dict[str, Decimal] = field(default_factory=dict)
    bills: dict[str, pb.Bill] = field(default_factory=dict)


class Books:
    """All that there is. Whoever reads or writes holds `changed`, which is told of every new status."""

    def __init__(self, clock: FakeClock, zone: tzinfo) -> None:
        """Begin with nothing."""
        self.changed = Condition()
        self.accounts: dict[str, AccountBook] = {}
        self.calls: dict[tuple[str, str, str], pb.RecordedCall] = {}
        self.rejected: dict[tuple[str, str, str], pb.RejectedCall] = {}
        self.price_plans: dict[str, list[pb.PricePlan]] = {}
        self.closed_months: dict[str, datetime] = {}
        """With the time they were closed."""
        self.billed_months: dict[str, datetime] = {}
        """With the time all their accounts had their bills."""
        self.dropped_days: set[str] = set()
        self.clock = clock
        self._zone = zone

    def day(self, time: datetime) -> str:
        """Return the day in the billing time zone."""
        return time.astimezone(self._zone).date().isoformat()

    def account(self, account_id: str) -> AccountBook:
        """Return an account, or refuse."""
        account = self.accounts.get(checks.name(account_id, "account_id"))
        if account is None:
            message = f"account_id: {account_id!r} is not activated; ActivateAccount does it"
            raise RefusalError("ACCOUNT_NOT_FOUND", message)
        return account

    def price_plan(self, price_plan_id: str, version: int = 0) -> pb.PricePlan:
        """Return a version of a price plan, 0 for the newest, or refuse."""
        versions = self.price_plans.get(price_plan_id, [])
        if version > len(versions) or not versions:
            raise RefusalError("PRICE_PLAN_NOT_FOUND", f"price_plan_id: there is no such version of {price_plan_id!r}")
        return versions[version - 1]

    def put_price_plan(self, sent: pb.PricePlan) -> pb.PricePlan:
        """Keep a price plan as its newest version, unless that is the same; return it."""
        plan = checks.price_plan(sent)
        versions = self.price_plans.setdefault(plan.price_plan_id, [])
        if versions and versions[-1].currency != plan.currency:
            message = f"price_plan.currency: {plan.price_plan_id} is in {versions[-1].currency}"
            raise RefusalError("CURRENCY_MISMATCH", message)
        if not versions or list(versions[-1].prices) != list(plan.prices):
            plan.version = len(versions) + 1
            versions.append(plan)
        return versions[-1]

    def status_changed(self, account: AccountBook) -> None:
        """Count the status up, and tell who watches."""
        account.version += 1
        self.changed.notify_all()

    def status(self, account: AccountBook) -> pb.ServiceStatus:
        """Return whether an account may call."""
        overdue = [month for month, bill in sorted(account.bills.items()) if bill.state == pb.BILL_STATE_OVERDUE]
        reason = f"overdue: the bill of {', '.join(overdue)}" if overdue else ""
        if account.suspended_by_hand and not overdue:
            reason = "suspended by the test"
        outstanding = sum((to_decimal(bill.outstanding) for bill in account.bills.values()), Decimal(0))
        return pb.ServiceStatus(
            account_id=account.account_id,
            state=pb.SERVICE_STATE_SUSPENDED if reason else pb.SERVICE_STATE_ACTIVE,
            reason=reason,
            outstanding=to_money(outstanding, account.currency),
            version=account.version,
            age=Duration(),
        )

    def calls_on_bill(self, account_id: str, month: str) -> list[pb.RecordedCall]:
        """Return the calls of an account that stand, or will stand, on a month's bill."""
        return [self.calls[key] for key in sorted(self.calls) if self._is_on(self.calls[key], account_id, month)]

    def rated(self, account: AccountBook, month: str) -> tuple[list[pb.BillLine], list[str]]:
        """Return what these calls cost, and the apis that have no price."""
        earlier = [
            call
            for call in self.calls.values()
            if call.call.account_id == account.account_id and call.billing_month < month
        ]
        return rate(self.calls_on_bill(account.account_id, month), earlier, lambda each: self._plan_of(account, each))

    def settle(self, account: AccountBook, bills: Iterable[pb.Bill]) -> list[pb.Bill]:
        """Deduct bills in the given order, from each as much as there is; return those that money was taken for."""
        taken_for: list[pb.Bill] = []
        before = self.status(account)
        for bill in bills:
            outstanding = to_decimal(bill.outstanding)
            taken = min(account.balance, outstanding)
            account.balance -= taken
            bill.deducted.CopyFrom(to_money(to_decimal(bill.deducted) + taken, account.currency))
            bill.outstanding.CopyFrom(to_money(outstanding - taken, account.currency))
            if taken == outstanding:
                bill.state = pb.BILL_STATE_PAID
            elif self.day(self.clock.now()) >= bill.due_date:
                bill.state = pb.BILL_STATE_OVERDUE
            if taken:
                taken_for.append(bill)
        if self.status(account) != before:
            self.status_changed(account)
        return taken_for

    def _plan_of(self, account: AccountBook, month: str) -> pb.PricePlan | None:
        started = [plan for from_month, plan in sorted(account.plans.items()) if from_month <= month]
        return self.price_plan(started[-1]) if started else None

    def _is_on(self, call: pb.RecordedCall, account_id: str, month: str) -> bool:
        return call.call.account_id == account_id and call.billing_month == month


def timestamp(time: datetime) -> Timestamp:
    """Return a message for a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message
