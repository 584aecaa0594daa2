"""What the service tells, in the words of the reference model, so that both can be compared as they are."""

from collections.abc import Iterable
from datetime import UTC, date
from fractions import Fraction
from uuid import UUID

from google.type.money_pb2 import Money

from faceid.metering.v1 import resources_pb2 as pb
from faceid.metering.v1.metering_service_pb2 import CloseMonthResponse
from tests.model.reference_rating import Line, Plan, Price, Tier
from tests.model.values import BEGINNING, Bill, Call, Closed, Run, Usage


def month(text: str) -> date:
    return date.fromisoformat(f"{text}-01")


def month_text(month: date) -> str:
    return month.isoformat()[:7]


def amount(money: Money) -> Fraction:
    return money.units + Fraction(money.nanos, 10**9)


def amounts(moneys: Iterable[Money]) -> dict[str, Fraction]:
    return {money.currency_code: amount(money) for money in moneys}


def bill(told: pb.Bill) -> Bill:
    assert amount(told.outstanding) == amount(told.total) - amount(told.deducted)
    return Bill(
        month=month(told.month),
        currency=told.total.currency_code,
        state=pb.BillState.Name(told.state).removeprefix("BILL_STATE_"),
        total=amount(told.total),
        deducted=amount(told.deducted),
        due=date.fromisoformat(told.due_date),
        lines=tuple(map(_line, told.lines)),
    )


def _line(told: pb.BillLine) -> Line:
    parts = [(part.quantity, Tier(part.tier_from, part.tier_up_to, Fraction(part.unit_price))) for part in told.parts]
    for (calls, tier), part in zip(parts, told.parts, strict=True):
        assert Fraction(part.exact_amount) == calls * tier.unit_price
    return Line(
        month=month(told.occurred_month),
        api=told.api,
        calls=told.calls,
        charged=told.charged_calls,
        parts=tuple(parts),
        exact=Fraction(told.exact_amount),
        amount=amount(told.amount),
        plan_id=told.price_plan_id,
        version=told.price_plan_version,
    )


def usage(told: pb.MonthlyUsage) -> Usage:
    return Usage(
        closed=told.state == pb.MONTH_STATE_CLOSED,
        total=told.total_calls,
        charged=told.charged_calls,
        carried=told.carried_calls,
        apis=tuple(
            (
                api.api,
                api.calls,
                api.charged_calls,
                tuple((date.fromisoformat(each.day), each.calls) for each in api.days),
            )
            for api in told.apis
        ),
        charges=amount(told.charges) if told.HasField("charges") else None,
        unrated=tuple(told.unrated_apis),
    )


def closed(told: CloseMonthResponse) -> Closed:
    return Closed(told.bills_issued, amounts(told.totals), list(told.unrated_accounts), told.already_closed)


def run(told: pb.MonthlyRun) -> Run:
    assert not told.failures, told.failed
    return Run(
        months=list(map(month, told.months)),
        bills=told.bills_issued,
        issued=amounts(told.issued),
        paid=told.bills_paid,
        suspended=told.accounts_suspended,
        unrated=told.accounts_unrated,
        deducted=amounts(told.deducted),
    )


def call(told: pb.CallRecord) -> Call:
    at = told.occurred_at.ToDatetime(UTC)
    return Call(told.account_id, UUID(told.call_id).int, at, told.api, told.result_code)


def rejected(told: pb.RejectedCall) -> tuple[Call, str, date | None]:
    return call(told.call), told.reason, month(told.billing_month) if told.billing_month else None


def assignments(told: pb.Account) -> dict[date, str]:
    return {month(each.from_month) if each.from_month else BEGINNING: each.price_plan_id for each in told.price_plans}


def message(call: Call) -> pb.CallRecord:
    told = pb.CallRecord(
        account_id=call.account_id, api=call.api, call_id=str(UUID(int=call.call_id)), result_code=call.code
    )
    told.occurred_at.FromDatetime(call.at)
    return told


def plan_message(plan: Plan) -> pb.PricePlan:
    return pb.PricePlan(
        price_plan_id=plan.plan_id,
        currency=plan.currency,
        prices=[_price_message(api, price) for api, price in plan.prices],
    )


def _price_message(api: str, price: Price) -> pb.ApiPrice:
    told = pb.ApiPrice(api=api, free_calls=price.free, uncharged_result_codes=sorted(price.uncharged))
    tiers = [pb.Tier(up_to=last, unit_price=_decimal(unit_price)) for last, unit_price in price.tiers]
    if price.model == "per_call":
        told.per_call.unit_price = tiers[0].unit_price
    else:
        getattr(told, price.model).tiers.extend(tiers)
    return told


def _decimal(number: Fraction) -> str:
    """Write a number of at most nine decimals."""
    billionths = f"{int(number * 10**9):010d}"
    return f"{billionths[:-9]}.{billionths[-9:]}"
