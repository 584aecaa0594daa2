"""Bugs of the service that were made on purpose, each a small change of one place of its billing code or SQL."""

import inspect
from pydoc import locate
from textwrap import dedent
from types import CodeType, FunctionType, MappingProxyType
from typing import Any, NamedTuple

import pytest

from metering.store import database
from metering.store.sql import load_queries


class Bug(NamedTuple):
    """`right` stands once in a function or query, and `wrong` in its place."""

    name: str
    place: str
    """A function, by its name after `metering.`, or a query, by its name after `sql:`."""
    right: str
    wrong: str

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have every service that is started from now on behave so."""
        if self.place.startswith("sql:"):
            queries, query = load_queries(), self.place.removeprefix("sql:")
            changed = MappingProxyType({**queries, query: self._changed(queries[query])})
            monkeypatch.setattr(database, "load_queries", lambda: changed)
            return
        located: Any = locate(f"metering.{self.place}")
        function = inspect.unwrap(getattr(located, "__func__", located))
        assert isinstance(function, FunctionType)
        # In its place, so that it is the same for whoever has imported it by name.
        monkeypatch.setattr(function, "__code__", self._code(function))

    def _code(self, function: FunctionType) -> CodeType:
        module = compile(self._changed(dedent(inspect.getsource(function))), self.name, "exec")
        (code,) = (each for each in module.co_consts if isinstance(each, CodeType))
        return code

    def _changed(self, text: str) -> str:
        assert text.count(self.right) == 1, f"{self.place} has {self.right!r} {text.count(self.right)} times"
        return text.replace(self.right, self.wrong)


RATING = [
    Bug("rounds half to even", "billing.currencies.round_to_minor_unit", "ROUND_HALF_UP", "'ROUND_HALF_EVEN'"),
    Bug("rounds down", "billing.currencies.round_to_minor_unit", "ROUND_HALF_UP", "'ROUND_DOWN'"),
    Bug(
        "rounds each tier",
        "billing.rating._line",
        "EXACT.add(exact, part.exact_amount)",
        "EXACT.add(exact, round_to_minor_unit(part.exact_amount, plan.currency))",
    ),
    Bug(
        "rounds the price of a call",
        "billing.rating._line",
        "EXACT.add(exact, part.exact_amount)",
        "EXACT.add(exact, part.quantity * round_to_minor_unit(part.unit_price, plan.currency))",
    ),
    Bug(
        "takes every currency for one with two decimals",
        "billing.currencies.round_to_minor_unit",
        "_MINOR_UNIT_OF[currency]",
        "_MINOR_UNIT_OF['CNY']",
    ),
    Bug(
        "ends a tier a call too early",
        "billing.rating.price_calls",
        "min(last, tier.up_to)",
        "min(last, tier.up_to - 1)",
    ),
    Bug(
        "prices volumes tier by tier",
        "billing.rating.price_calls",
        "or price.model is not PriceModel.VOLUME",
        "or price",
    ),
    Bug("forgets free calls", "billing.rating.price_calls", "min(last, price.free_calls)", "0"),
    Bug("charges earlier calls again", "billing.rating.price_calls", "first, last = earlier + 1", "first, last = 1"),
    Bug(
        "charges what is not to be charged",
        "billing.rating._line",
        "each.result_code not in price.uncharged_result_codes",
        "each.calls",
    ),
    Bug("charges nothing for errors", "billing.rating._line", "not in price.uncharged_result_codes", "== ''"),
]

CLOSING = [
    Bug(
        "bills a call at midnight in both months",
        "sql:usage_of_accounts",
        "billing_month = $2",
        "(billing_month = $2 OR occurred_on = $2::date + interval '1 month')",
    ),
    Bug(
        "lets a day hold its end",
        "billing.months.BillingCalendar.day_of",
        "bisect_right(starts, micros)",
        "bisect_right(starts, micros - 1)",
    ),
    Bug("ends a month a day late", "billing.months.BillingCalendar.has_ended", ">= next_month", "> next_month"),
    Bug(
        "drops carried calls",
        "sql:usage_of_accounts",
        "AND billing_month = $2",
        "AND billing_month = $2 AND occurred_on >= $2",
    ),
    Bug(
        "rates carried calls by the plan of the bill's month",
        "billing.close.rate_accounts",
        "partial(accounts.plan, account_id)",
        "lambda _: accounts.plan(account_id, month)",
    ),
    Bug(
        "rates carried calls by the newest version of their plan",
        "store.accounts.PlansOfAccounts.plan",
        "(account_id, month) in self._billed",
        "not account_id",
    ),
    Bug("forgets calls that are billed already", "store.bills.with_earlier_calls", "if not carried:", "if True:"),
    Bug("takes a plan before it starts", "store.accounts.PlansOfAccounts.plan", "each.from_month <= month", "True"),
    Bug(
        "takes a plan from the month after on",
        "store.accounts.PlansOfAccounts.plan",
        "each.from_month <= month",
        "each.from_month < month or each.from_month.year == 1",
    ),
    Bug("closes once more as if nothing was billed", "store.bills.UnbilledAccounts.read", "not in billed]", "]"),
    Bug(
        "leaves out who got a price after the close",
        "billing.close.MonthCloser.close",
        "await self._bill_all(month, now, billed, dry_run=dry_run)",
        "already_closed or await self._bill_all(month, now, billed, dry_run=dry_run)",
    ),
    Bug(
        "takes a month for billed though accounts have no price",
        "billing.close.MonthCloser.close",
        "if not billed.unrated:",
        "if True:",
    ),
    Bug(
        "bills an account without a price for the rest",
        "billing.close.rate_accounts",
        "if unrated_apis:",
        "if not lines:",
    ),
]

COLLECTING = [
    Bug(
        "takes the whole bill on each deduct",
        "billing.settlement.settle",
        "min(balance, bill.outstanding)",
        "min(balance, bill.total)",
    ),
    Bug(
        "takes money only if there is enough",
        "billing.settlement.settle",
        "amount = min(balance, bill.outstanding)",
        "amount = bill.outstanding if balance >= bill.outstanding else 0 * balance",
    ),
    Bug(
        "takes the same money for every bill",
        "billing.settlement.settle",
        "balance -= amount",
        "balance -= amount if bill is bills[0] else 0",
    ),
    Bug(
        "pays the newest bill first",
        "sql:unpaid_bills",
        "ORDER BY account_id, month",
        "ORDER BY account_id, month DESC",
    ),
    Bug(
        "does not look whether a payment is booked",
        "store.bills.LockedAccounts.payment",
        "return amount",
        "return None",
    ),
    Bug(
        "takes a repeated payment of another amount for the same",
        "billing.deduct.Collector.record_payment",
        "and booked != amount.amount",
        "and not booked",
    ),
    Bug(
        "leaves who paid suspended",
        "billing.deduct._booking",
        "service_state(settlement.after(account.unpaid_bills))",
        "max(account.state, service_state(settlement.after(account.unpaid_bills)))",
    ),
    Bug(
        "suspends who has just paid",
        "billing.settlement.service_state",
        "is BillState.OVERDUE",
        "is not BillState.ISSUED",
    ),
    Bug(
        "judges a bill before the deduction",
        "billing.settlement.settle",
        "state_of(bill, deducted, today)",
        "state_of(bill, bill.deducted, today)",
    ),
    Bug(
        "suspends a day early",
        "billing.settlement.state_of",
        "today >= bill.due_date",
        "today.toordinal() + 1 >= bill.due_date.toordinal()",
    ),
    Bug("suspends a day late", "billing.settlement.state_of", "today >= bill.due_date", "today > bill.due_date"),
    Bug(
        "reactivates on any payment",
        "billing.deduct._booking",
        "service_state(settlement.after(account.unpaid_bills))",
        "ServiceState.ACTIVE if payments else service_state(settlement.after(account.unpaid_bills))",
    ),
    Bug(
        "deducts one bill of each account",
        "billing.deduct.Collector.deduct_all",
        "account.unpaid_bills, today",
        "account.unpaid_bills[:1], today",
    ),
    Bug(
        "leaves the bills of who is suspended as they are",
        "billing.deduct._changes",
        "booking.entries or booking.bills",
        "booking.entries",
    ),
]

BUGS = [*RATING, *CLOSING, *COLLECTING]
