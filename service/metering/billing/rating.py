"""Rating: usage and a price plan give lines.

One line for each api and month of the calls. Estimates of an open month and the lines of a bill come from here alike.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import groupby
from operator import attrgetter

from metering.billing.currencies import EXACT, round_to_minor_unit
from metering.model import ApiPrice, BillLine, BillLinePart, Month, MonthUsage, PriceModel, PricePlan, Tier

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
        exact = EXACT.fma(Decimal(part.quantity), part.unit_price, exact)
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
    if price.model is PriceModel.VOLUME:
        reached = next(tier for tier in price.tiers if tier.up_to is None or last <= tier.up_to)
        tiers: tuple[Tier, ...] = (Tier(None, reached.unit_price),)
    else:
        tiers = price.tiers
    parts: dict[Decimal, int] = {}
    free = min(last, price.free_calls) - first + 1
    if free > 0:
        parts[FREE] = free
        first += free
    for tier in tiers:
        end = last if tier.up_to is None else min(last, tier.up_to)
        if end >= first:
            parts[tier.unit_price] = parts.get(tier.unit_price, 0) + end - first + 1
            first = end + 1
    return tuple(BillLinePart(quantity, unit_price) for unit_price, quantity in parts.items())
