"""The reference model: accounts, calls, months, bills, ledger and status, as naive as can be.

It has lists and loops where the service has tables, locks and caches, and shares no code with it. What the service must
tell at any moment is what this tells.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from tests.model.reference_rating import Line, Plan, Price, Rater

BACK, AHEAD = timedelta(days=62), timedelta(minutes=5)
BEGINNING = date.min


class RefusedError(Exception):
    """What is asked for cannot be done; the text is the reason that the service gives."""


def first_of(day: date) -> date:
    return day.replace(day=1)


def month_after(month: date) -> date:
    return first_of(month + timedelta(days=31))


@dataclass(frozen=True)
class Call:
    """A call as it is sent. `call_id` is a number here."""

    account_id: str
    call_id: int
    at: datetime
    api: str = "A"
    code: str = ""


@dataclass(frozen=True)
class Recorded:
    """A call that is on the books."""

    call: Call
    day: date
    billing_month: date


@dataclass
class Rejected:
    """A call that is not, or was not at first."""

    call: Call
    reason: str
    billing_month: date | None = None
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Bill:
    """A month's bill."""

    month: date
    currency: str
    state: str
    total: Fraction
    deducted: Fraction
    due: date
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Usage:
    """What an account has used in a month; `apis` are (api, calls, charged, ((day, calls), …))."""

    closed: bool
    total: int
    charged: int
    carried: int
    apis: tuple[tuple[str, int, int, tuple[tuple[date, int], ...]], ...]
    charges: Fraction | None
    unrated: tuple[str, ...]


@dataclass
class Account:
    """Who pays. The ledger has (amount, what for): positive for payments, negative for deductions."""

    account_id: str
    currency: str
    plans: dict[date, str]
    ledger: list[tuple[Fraction, str]] = field(default_factory=list)
    bills: dict[date, Bill] = field(default_factory=dict)

    @property
    def balance(self) -> Fraction:
        return sum((amount for amount, _ in self.ledger), Fraction(0))

    @property
    def unpaid(self) -> list[Bill]:
        return [bill for _, bill in sorted(self.bills.items()) if bill.state != "PAID"]

    @property
    def outstanding(self) -> Fraction:
        return sum((bill.total - bill.deducted for bill in self.unpaid), Fraction(0))

    @property
    def overdue(self) -> list[date]:
        return [bill.month for bill in self.unpaid if bill.state == "OVERDUE"]


@dataclass
class Closed:
    """What closing a month, or what a dry run of it, came to."""

    bills: int
    totals: dict[str, Fraction]
    unrated: list[str]
    already: bool


@dataclass
class Run:
    """What a monthly run did."""

    months: list[date] = field(default_factory=list)
    bills: int = 0
    issued: dict[str, Fraction] = field(default_factory=dict)
    paid: int = 0
    suspended: int = 0
    unrated: int = 0
    deducted: dict[str, Fraction] = field(default_factory=dict)
    """Both by currency; what comes to nothing is left out."""


class Books:
    """The whole service. `now` is set by whoever uses it."""

    rater = Rater()

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
        kept = self.now - timedelta(days=90)
        self.rejected = [each for each in self.rejected if each.recorded_at is None or each.recorded_at >= kept]

    # Usage and prices

    def calls_on(self, account_id: str, month: date) -> list[Recorded]:
        return [each for each in self.calls if each.call.account_id == account_id and each.billing_month == month]

    def rate(self, account: Account, month: date) -> tuple[list[Line], list[str]]:
        """Return the lines for an account's calls on a month's bill, and the apis without a price."""
        lines: list[Line] = []
        unrated: set[str] = set()
        calls = self.calls_on(account.account_id, month)
        for occurred, api in sorted({(first_of(each.day), each.call.api) for each in calls}):
            plan = self.plan_for(account, occurred, month, calls)
            if plan is None or api not in dict(plan.prices):
                unrated.add(api)
                continue
            codes = [each.call.code for each in calls if (first_of(each.day), each.call.api) == (occurred, api)]
            earlier = [each.call.code for each in self.earlier(account, occurred, api, month)]
            lines.append(self.rater.line(occurred, api, codes, earlier, plan))
        return lines, sorted(unrated)

    def earlier(self, account: Account, occurred: date, api: str, month: date) -> list[Recorded]:
        """Return the calls of a line's month that stand on earlier bills."""
        return [
            each
            for each in self.calls
            if each.call.account_id == account.account_id
            and (first_of(each.day), each.call.api) == (occurred, api)
            and each.billing_month < month
        ]

    def plan_for(self, account: Account, occurred: date, month: date, calls: list[Recorded]) -> Plan | None:
        """Return the plan of the calls of a month, on the bill of another one or the same."""
        if occurred < month:
            # Its month is billed already: by those prices, unless they lack one of the apis.
            billed = [line for bill in account.bills.values() if bill.month < month for line in bill.lines]
            versions = [line for line in billed if line.month == occurred]
            if versions:
                newest = max(versions, key=lambda line: line.version)
                plan = self.plans[newest.plan_id][newest.version - 1]
                if {each.call.api for each in calls if first_of(each.day) == occurred} <= dict(plan.prices).keys():
                    return plan
        started = [month for month in account.plans if month <= occurred]
        return self.plans[account.plans[max(started)]][-1] if started else None

    def usage(self, account_id: str, month: date) -> Usage:
        account = self.account(account_id)
        calls = self.calls_on(account_id, month)
        if month in account.bills:
            lines, unrated = list(account.bills[month].lines), []
        else:
            lines, unrated = self.rate(account, month)
        apis = tuple(
            (
                api,
                sum(each.call.api == api for each in calls),
                sum(line.charged for line in lines if line.api == api),
                tuple(sorted(Counter(each.day for each in calls if each.call.api == api).items())),
            )
            for api in sorted({each.call.api for each in calls})
        )
        return Usage(
            closed=month in self.closed,
            total=len(calls),
            charged=sum(charged for _, _, charged, _ in apis),
            carried=sum(first_of(each.day) < month for each in calls),
            apis=apis,
            charges=None if unrated else sum((line.amount for line in lines), Fraction(0)),
            unrated=tuple(unrated),
        )

    # Bills

    def close(self, month: date) -> Closed:
        if self.today < month_after(month):
            raise RefusedError("MONTH_NOT_ENDED")
        already = month in self.closed
        self.closed.add(month)
        unrated: list[str] = []
        for account_id, account in sorted(self.accounts.items()):
            if month not in account.bills and self.calls_on(account_id, month):
                lines, unrated_apis = self.rate(account, month)
                if unrated_apis:
                    unrated.append(account_id)
                else:
                    account.bills[month] = self._bill(account, month, lines)
        bills = self._bills_of(month)
        totals: dict[str, Fraction] = {}
        for bill in bills:
            totals[bill.currency] = totals.get(bill.currency, Fraction(0)) + bill.total
        return Closed(len(bills), totals, unrated, already)

    def _bill(self, account: Account, month: date, lines: list[Line]) -> Bill:
        total = sum((line.amount for line in lines), Fraction(0))
        state = "ISSUED" if total else "PAID"
        due = month_after(month).replace(day=3)
        return Bill(month, account.currency, state, total, Fraction(0), due, tuple(lines))

    # Money

    def deduct(self, account_id: str, month: date) -> Fraction:
        """Return what was taken."""
        account = self.account(account_id)
        if month not in account.bills:
            raise RefusedError("BILL_NOT_FOUND")
        return self._deduct(account, month)

    def _deduct(self, account: Account, month: date) -> Fraction:
        bill = account.bills[month]
        taken = min(account.balance, bill.total - bill.deducted)
        if taken:
            account.ledger.append((-taken, month.isoformat()[:7]))
        bill = replace(bill, deducted=bill.deducted + taken)
        if bill.deducted == bill.total:
            bill = replace(bill, state="PAID")
        elif self.today >= bill.due:
            bill = replace(bill, state="OVERDUE")
        account.bills[month] = bill
        return taken

    def pay(self, account_id: str, amount: Fraction, currency: str, payment_id: str) -> tuple[bool, list[date]]:
        """Return whether the payment had been booked before, and the months of the bills that money was taken for."""
        account = self.account(account_id)
        if currency != account.currency:
            raise RefusedError("CURRENCY_MISMATCH")
        for booked, what_for in account.ledger:
            if what_for == f"payment {payment_id}":
                if booked != amount:
                    raise RefusedError("PAYMENT_ID_REUSED")
                return True, []
        account.ledger.append((amount, f"payment {payment_id}"))
        return False, [month for month in self.order_of_payment(account) if self._deduct(account, month)]

    def order_of_payment(self, account: Account) -> list[date]:
        return [bill.month for bill in account.unpaid]

    # The monthly run

    def run_month(self) -> Run:
        run = Run()
        this_month, look_back = first_of(self.today), first_of(self.today - timedelta(days=400))
        used = {(each.call.account_id, each.billing_month) for each in self.calls if each.billing_month < this_month}
        unbilled = {month for account_id, month in used if month not in self.accounts[account_id].bills}
        for month in sorted(month for month in unbilled if month not in self.closed or month >= look_back):
            before = self._bills_of(month)
            closed = self.close(month)
            issued = [bill for bill in self._bills_of(month) if bill not in before]
            run.bills += len(issued)
            for bill in issued:
                _add(run.issued, bill.total, bill.currency)
            run.unrated += len(closed.unrated)
            if not closed.already or issued:
                run.months.append(month)
        for account in self.accounts.values():
            for bill in account.unpaid:
                active = not account.overdue
                taken = self._deduct(account, bill.month)
                run.paid += account.bills[bill.month].state == "PAID"
                run.suspended += active and bool(account.overdue)
                _add(run.deducted, taken, account.currency)
        self.run_done_on = self.today
        return run

    def _bills_of(self, month: date) -> list[Bill]:
        return [account.bills[month] for account in self.accounts.values() if month in account.bills]

    def run_is_due(self) -> bool:
        return self.run_done_on < min(self.today, self.today.replace(day=3))

    # What an audit counts

    def totals(self) -> dict[str, int]:
        places = Counter(map(self._place, self.calls))
        return {"recorded": len(self.calls)} | {
            place: places[place] for place in ("billed", "carried", "open", "unrated")
        }

    def _place(self, each: Recorded) -> str:
        month = each.billing_month
        if first_of(each.day) != month:
            return "carried"
        if month not in self.closed:
            return "open"
        return "billed" if month in self.accounts[each.call.account_id].bills else "unrated"


def _add(sums: dict[str, Fraction], amount: Fraction, currency: str) -> None:
    if amount:
        sums[currency] = sums.get(currency, Fraction(0)) + amount
