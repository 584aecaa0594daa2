"""What calls cost, reckoned call by call: slow, and simple to check."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

from faceid.metering.v1.resources_pb2 import ApiPrice, BillLine, BillLinePart, PricePlan, RecordedCall
from faceid_metering.money import to_money
from faceid_metering.testing.checks import MINOR_UNITS, decimal_text

_EXACT = Context(prec=60)


class PricedTier(NamedTuple):
    """Calls of a month that have the same price: the first one, the last one (0: no end), and the price of each."""

    first: int
    up_to: int
    unit_price: Decimal


def rate(
    calls: Sequence[RecordedCall], earlier: Sequence[RecordedCall], plan_of: Callable[[str], PricePlan | None]
) -> tuple[list[BillLine], list[str]]:
    """Return the lines for the calls of one account on one bill, and the apis that have no price.

    Args:
        calls: The calls on the bill.
        earlier: Those on earlier bills, which have had the free calls and the first tiers of their month.
        plan_of: Tells the price plan of a month.
    """
    lines: list[BillLine] = []
    unrated: set[str] = set()
    for month, api in sorted({(_month(call), call.call.api) for call in calls}):
        plan = plan_of(month)
        price = next((price for price in plan.prices if price.api == api), None) if plan else None
        if plan is None or price is None:
            unrated.add(api)
            continue
        group = [call for call in calls if (_month(call), call.call.api) == (month, api)]
        before = [call for call in earlier if (_month(call), call.call.api) == (month, api)]
        lines.append(_line(month, len(group), _charged(price, group), _charged(price, before), plan, price))
    return lines, sorted(unrated)


def _line(month: str, calls: int, charged: int, before: int, plan: PricePlan, price: ApiPrice) -> BillLine:
    tiers = Counter(tier_of(price, number, before + charged) for number in range(before + 1, before + charged + 1))
    exact = Decimal(0)
    for tier, quantity in tiers.items():
        exact = _EXACT.fma(tier.unit_price, Decimal(quantity), exact)
    minor_unit = Decimal(1).scaleb(-MINOR_UNITS[plan.currency])
    return BillLine(
        api=price.api,
        occurred_month=month,
        calls=calls,
        charged_calls=charged,
        parts=[
            BillLinePart(
                quantity=quantity,
                unit_price=decimal_text(tier.unit_price),
                tier_from=tier.first,
                tier_up_to=tier.up_to,
                exact_amount=decimal_text(_EXACT.multiply(tier.unit_price, Decimal(quantity))),
            )
            for tier, quantity in tiers.items()
        ],
        exact_amount=decimal_text(exact),
        amount=to_money(exact.quantize(minor_unit, ROUND_HALF_UP, _EXACT), plan.currency),
        price_plan_id=plan.price_plan_id,
        price_plan_version=plan.version,
    )


def tier_of(price: ApiPrice, number: int, total: int) -> PricedTier:
    """Return the tier of one charged call: the `number`th, counted from 1, of `total` in its month."""
    if number <= price.free_calls:
        return PricedTier(1, price.free_calls, Decimal(0))
    if price.WhichOneof("model") == "per_call":
        return PricedTier(1, 0, Decimal(price.per_call.unit_price))
    is_volume = price.WhichOneof("model") == "volume"
    tiers, reached = (price.volume.tiers, total) if is_volume else (price.graduated.tiers, number)
    first = 1
    for tier in tiers[:-1]:
        if reached <= tier.up_to:
            return PricedTier(first, tier.up_to, Decimal(tier.unit_price))
        first = tier.up_to + 1
    return PricedTier(first, 0, Decimal(tiers[-1].unit_price))


def _charged(price: ApiPrice, calls: Iterable[RecordedCall]) -> int:
    return sum(call.call.result_code not in price.uncharged_result_codes for call in calls)


def _month(call: RecordedCall) -> str:
    return str(call.occurred_on[:7])
