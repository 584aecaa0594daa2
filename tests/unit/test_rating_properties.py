"""Rating: what must hold for every price, at every number of calls."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from metering.billing.rating import price_calls, rate
from metering.model import AccountId, ApiPrice, BillLine, BillLinePart, Month, MonthUsage, PriceModel, PricePlan, Tier
from tests.support.prices import TRILLION, api_prices

NOVEMBER = Month(date(2026, 11, 1))

call_by_call = api_prices(models=(PriceModel.PER_CALL, PriceModel.GRADUATED))
graduated = api_prices(models=(PriceModel.GRADUATED,))
by_volume = api_prices(models=(PriceModel.VOLUME,))
many = st.integers(0, TRILLION)


def cost(price: ApiPrice, calls: int, earlier: int = 0) -> Fraction:
    return sum((Fraction(part.exact_amount) for part in price_calls(price, earlier, calls)), Fraction(0))


def bounds(price: ApiPrice) -> list[tuple[int, int | None, Decimal]]:
    """Return first call, last call and price of each tier."""
    firsts = [1, *(tier.up_to + 1 for tier in price.tiers if tier.up_to is not None)]
    return [(first, tier.up_to, tier.unit_price) for first, tier in zip(firsts, price.tiers, strict=True)]


@given(graduated, many)
def test_graduated_is_the_sum_over_the_tiers_of_the_calls_that_fall_in_each(price: ApiPrice, calls: int) -> None:
    expected = Fraction(0)
    for first, last, unit_price in bounds(price):
        paid_first = max(first, price.free_calls + 1)
        in_tier = min(calls, calls if last is None else last) - paid_first + 1
        expected += max(0, in_tier) * Fraction(unit_price)
    assert cost(price, calls) == expected


@given(call_by_call, st.data())
def test_one_more_call_costs_its_own_price_and_nothing_jumps_at_the_end_of_a_tier(
    price: ApiPrice, data: st.DataObject
) -> None:
    ends = [tier.up_to for tier in price.tiers if tier.up_to is not None]
    calls = data.draw(st.sampled_from([*ends, price.free_calls]) | many)
    step = cost(price, calls + 1) - cost(price, calls)
    assert 0 <= step <= max(Fraction(tier.unit_price) for tier in price.tiers)


@given(call_by_call, many, many)
def test_more_calls_never_cost_less_unless_priced_by_volume(price: ApiPrice, calls: int, more: int) -> None:
    assert cost(price, calls) <= cost(price, calls + more)


@given(by_volume, many, many)
def test_by_volume_more_calls_of_the_same_tier_never_cost_less(price: ApiPrice, calls: int, more: int) -> None:
    def tier(number: int) -> int:
        return next(index for index, (_, last, _) in enumerate(bounds(price)) if last is None or number <= last)

    assume(tier(calls) == tier(calls + more))
    assert cost(price, calls) <= cost(price, calls + more)


def test_by_volume_a_cheaper_tier_may_cost_less_in_all() -> None:
    price = ApiPrice("A", PriceModel.VOLUME, (Tier(10, Decimal(1)), Tier(None, Decimal("0.5"))))
    assert (cost(price, 10), cost(price, 11)) == (10, Fraction("5.5"))


@given(by_volume, many, many)
def test_by_volume_one_tier_prices_all_paid_calls(price: ApiPrice, earlier: int, calls: int) -> None:
    paid = [part for part in price_calls(price, earlier, calls) if part.quantity and not is_free(part, price)]
    assert len(paid) <= 1
    for part in paid:
        last = earlier + calls
        assert part.tier_from <= last
        assert part.tier_up_to is None or last <= part.tier_up_to


@given(api_prices(), many, many)
def test_each_part_is_the_calls_of_one_tier_at_the_price_of_that_tier(
    price: ApiPrice, earlier: int, calls: int
) -> None:
    number = earlier + 1
    for part in price_calls(price, earlier, calls):
        last = number + part.quantity - 1
        if is_free(part, price):
            assert last <= price.free_calls
        else:
            assert (part.tier_from, part.tier_up_to, part.unit_price) in bounds(price)
            if price.model is not PriceModel.VOLUME:
                assert part.tier_from <= number
                assert part.tier_up_to is None or last <= part.tier_up_to
        number = last + 1
    assert number == earlier + calls + 1


def is_free(part: BillLinePart, price: ApiPrice) -> bool:
    return (part.unit_price, part.tier_from, part.tier_up_to) == (0, 1, price.free_calls)


@given(api_prices(), many, st.integers(1, TRILLION))
def test_more_free_calls_never_cost_more(price: ApiPrice, calls: int, more: int) -> None:
    assert cost(replace(price, free_calls=price.free_calls + more), calls) <= cost(price, calls)


def line_of(price: ApiPrice, calls: dict[str, int], currency: str = "CNY") -> BillLine:
    usage = [MonthUsage(AccountId("acme"), NOVEMBER, price.api, code, each, 0) for code, each in calls.items()]
    (line,), unrated = rate(usage, lambda _: PricePlan("p", 1, currency, (price,)))
    assert unrated == ()
    return line


@given(api_prices(), st.dictionaries(st.sampled_from(["", "E.A", "E.B", "E.C"]), st.integers(1, TRILLION), min_size=1))
def test_uncharged_calls_are_on_the_line_and_change_nothing_else(price: ApiPrice, calls: dict[str, int]) -> None:
    some_free = replace(price, uncharged_result_codes=frozenset({"E.A", "E.B"}))
    line = line_of(some_free, calls)
    charged = sum(each for code, each in calls.items() if code not in {"E.A", "E.B"})
    assert (line.calls, line.charged_calls) == (sum(calls.values()), charged)
    assert line.parts == price_calls(price, 0, charged)


@given(st.integers(1, TRILLION), st.integers(1, 999_999_999))
def test_prices_of_nine_decimals_are_not_rounded_call_by_call(calls: int, billionths: int) -> None:
    price = ApiPrice("A", PriceModel.PER_CALL, (Tier(None, Decimal(billionths).scaleb(-9)),))
    assert line_of(price, {"": calls}).exact_amount == Decimal(calls * billionths).scaleb(-9)
