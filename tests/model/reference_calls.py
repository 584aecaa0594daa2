"""The reference model of accounts, price plans and calls."""

from collections import Counter
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.model.reference_rating import Plan, Price
from tests.model.values import BEGINNING, Account, Call, Recorded, Rejected, first_of, month_after

BACK, AHEAD = timedelta(days=62), timedelta(minutes=5)
RECORDED_KEPT = timedelta(days=90)


class RefusedError(Exception):
    """What is asked for cannot be done; the text is the reason that the service gives."""


class CallBooks:
    """Accounts, price plans and calls. `now` is set by whoever uses it."""

    def __init__(self, zone: str, now: datetime) -> None:
        self.zone = ZoneInfo(zone)
        self.now = now
        self.plans: dict[str, list[Plan]] = {}
        self.accounts: dict[str, Account] = {}
        self.calls: list[Recorded] = []
        self.rejected: list[Rejected] = []
        self.closed: set[date] = set()
        self.run_done_on = self.today

    # Days and months

    def day_of(self, at: datetime) -> date:
        return at.astimezone(self.zone).date()

    @property
    def today(self) -> date:
        return self.day_of(self.now)

    # Accounts and prices

    def put_plan(self, plan_id: str, currency: str, prices: tuple[tuple[str, Price], ...]) -> Plan:
        versions = self.plans.get(plan_id, [])
        if versions and versions[-1].currency != currency:
            raise RefusedError("CURRENCY_MISMATCH")
        if not versions or versions[-1].prices != prices:
            versions = [*versions, Plan(plan_id, len(versions) + 1, currency, prices)]
        self.plans[plan_id] = versions
        return versions[-1]

    def activate(self, account_id: str, currency: str, plan_id: str) -> None:
        if plan_id:
            self._check_plan(plan_id, currency)
        plans = {BEGINNING: plan_id} if plan_id else {}
        account = self.accounts.setdefault(account_id, Account(account_id, currency, plans))
        first = {month: plan for month, plan in account.plans.items() if month == BEGINNING}
        if (account.currency, first) != (currency, plans):
            raise RefusedError("ACCOUNT_ALREADY_ACTIVATED")

    def assign(self, account_id: str, plan_id: str, month: date) -> None:
        account = self.account(account_id)
        self._check_plan(plan_id, account.currency)
        until = min((other for other in account.plans if other > month), default=date.max)
        if any(month <= line.month < until for bill in account.bills.values() for line in bill.lines):
            raise RefusedError("MONTH_ALREADY_BILLED")
        account.plans[month] = plan_id

    def _check_plan(self, plan_id: str, currency: str) -> None:
        if plan_id not in self.plans:
            raise RefusedError("PRICE_PLAN_NOT_FOUND")
        if self.plans[plan_id][-1].currency != currency:
            raise RefusedError("CURRENCY_MISMATCH")

    def account(self, account_id: str) -> Account:
        if account_id not in self.accounts:
            raise RefusedError("ACCOUNT_NOT_FOUND")
        return self.accounts[account_id]

    # Calls

    def record(self, call: Call, *, however_old: bool = False) -> tuple[bool, date]:
        """Return whether it had been recorded before, and the month on whose bill it stands."""
        try:
            return self._record(call, however_old=however_old)
        except RefusedError as error:
            kept = [(each.call.account_id, each.call.call_id, each.call.at) for each in self.rejected]
            if (call.account_id, call.call_id, call.at) not in kept:
                self.rejected.append(Rejected(call, str(error)))
            raise

    def _record(self, call: Call, *, however_old: bool) -> tuple[bool, date]:
        oldest = datetime.min.replace(tzinfo=call.at.tzinfo) if however_old else self.now - BACK
        if not oldest <= call.at <= self.now + AHEAD:
            raise RefusedError("OCCURRED_AT_OUT_OF_RANGE")
        self.account(call.account_id)
        day = self.day_of(call.at)
        for known in self.calls:
            if self.same(known, call, day):
                return True, known.billing_month
        self.calls.append(Recorded(call, day, self.billing_month(first_of(day))))
        return False, self.calls[-1].billing_month

    def same(self, known: Recorded, call: Call, day: date) -> bool:
        """Tell whether a call is one that is on the books."""
        return (known.call.account_id, known.call.call_id, known.day) == (call.account_id, call.call_id, day)

    def billing_month(self, month: date) -> date:
        while month in self.closed:
            month = month_after(month)
        return month

    def retry(self, account_id: str, *, however_old: bool) -> Counter[str]:
        """Try to record what is rejected; return how many calls became what."""
        became: Counter[str] = Counter()
        for each in self.rejected:
            if each.billing_month is None and account_id in {"", each.call.account_id}:
                try:
                    duplicate, each.billing_month = self._record(each.call, however_old=however_old)
                    each.recorded_at = self.now
                    became["duplicates" if duplicate else "recorded"] += 1
                except RefusedError as error:
                    each.reason = str(error)
                    became["still_rejected"] += 1
        return became

    def purge(self) -> None:
        """Forget rejected calls that were recorded more than 90 days ago."""
        kept = self.now - RECORDED_KEPT
        self.rejected = [each for each in self.rejected if each.recorded_at is None or each.recorded_at >= kept]
