"""The reference model: accounts, calls, months, bills, ledger and status, as naive as can be.

It has lists and loops where the service has tables, locks and caches, and shares no code with it. What the service must
tell at any moment is what this tells.
"""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction

from tests.model.reference_calls import CallBooks, RefusedError
from tests.model.reference_rating import Line, Plan, Rater
from tests.model.values import Account, Bill, Closed, Recorded, Run, Usage, first_of, month_after


class Books(CallBooks):
    """The whole service."""

    rater = Rater()

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
        lines, unrated = self.rate(account, month)
        if month in account.bills:
            lines, unrated = list(account.bills[month].lines), []
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
