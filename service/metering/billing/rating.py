"""Rating: usage and a price plan give lines.

One line for each api and month of the calls. Estimates of an open month and the lines of a bill come from here alike.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import groupby
from operator import attrgetter

from metering.billing.currencies import round_to_minor_unit
from metering.model import EXACT, ApiPrice, BillLine, BillLinePart, Month, MonthUsage, PriceModel, PricePlan

FREE = Decimal(0)

PlanOfMonth = Callable[[Month], PricePlan | None]
"""Tells the price plan that an account has in a month."""


def rate(usage: Iterable[MonthUsage], plan_of: PlanOfMonth) -> tuple[tuple[BillLine, ...], tuple[str, ...]]:
    """Rate one account's usage on one month's bill.

    Args:
        usage: of one account, on one bill.
        plan_of: tells the price plan of a month. Carried calls are priced as the calls of their own month were.

    Returns:
        The lines, sorted by the month of the calls, then by api, and the apis that have no price. A bill can only be
        made if there are none.

    """
    lines: list[BillLine] = []
    unrated: set[str] = set()
    by_line = attrgetter("occurred_month", "api")
    for (occurred_month, api), group in groupby(sorted(usage, key=by_line), by_line):
        plan = plan_of(occurred_month)
        price = plan.price_of(api) if plan else None
        if plan and price:
            lines.append(_line(list(group), plan, price))
        else:
            unrated.add(api)
    return tuple(lines), tuple(sorted(unrated))


def _line(usage: list[MonthUsage], plan: PricePlan, price: ApiPrice) -> BillLine:
    calls = charged_calls = earlier_calls = 0
    for each in usage:
        calls += each.calls
        if each.result_code not in price.uncharged_result_codes:
            charged_calls += each.calls
            earlier_calls += each.earlier_calls
    parts = price_calls(price, earlier_calls, charged_calls)
    exact = Decimal(0)
    for part in parts:
        exact = EXACT.add(exact, part.exact_amount)
    return BillLine(
        api=price.api,
        occurred_month=usage[0].occurred_month,
        calls=calls,
        charged_calls=charged_calls,
        parts=parts,
        exact_amount=exact,
        amount=round_to_minor_unit(exact, plan.currency),
        price_plan_id=plan.price_plan_id,
        price_plan_version=plan.version,
    )


def price_calls(price: ApiPrice, earlier: int, calls: int) -> tuple[BillLinePart, ...]:
    """Return how `calls` charged calls of a month are priced that come after `earlier` ones.

    Free calls are the first ones of a month. They count towards the tiers. Earlier calls, which stand on earlier bills,
    are there only for carried calls, so that those get neither free calls nor cheap tiers twice.
    """
    first, last = earlier + 1, earlier + calls
    parts: list[BillLinePart] = []
    free = min(last, price.free_calls) - first + 1
    if free > 0:
        parts.append(BillLinePart(free, FREE, 1, price.free_calls))
        first += free
    tier_from = 1
    for tier in price.tiers:
        end = last if tier.up_to is None else min(last, tier.up_to)
        # By volume, the tier that the last call falls in prices all of them.
        if end >= first and (end == last or price.model is not PriceModel.VOLUME):
            parts.append(BillLinePart(end - first + 1, tier.unit_price, tier_from, tier.up_to))
            first = end + 1
        tier_from = end + 1
    return tuple(parts)
