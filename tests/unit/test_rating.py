"""Rating: what calls cost, exactly."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing.currencies import MINOR_UNITS
from metering.billing.rating import price_calls, rate
from metering.model import AccountId, ApiPrice, BillLine, BillLinePart, Month, MonthUsage, PriceModel, PricePlan, Tier
from tests.support.prices import TRILLION, api_prices

ACCOUNT = AccountId("acme")
OCTOBER, NOVEMBER = Month(date(2026, 10, 1)), Month(date(2026, 11, 1))

call_by_call = api_prices(models=(PriceModel.PER_CALL, PriceModel.GRADUATED))
few = st.integers(0, 60)
many = st.integers(0, TRILLION)


def exact(parts: tuple[BillLinePart, ...]) -> Fraction:
    return sum((part.quantity * Fraction(part.unit_price) for part in parts), Fraction(0))


def tier_price(price: ApiPrice, number: int) -> Decimal:
    return next(tier.unit_price for tier in price.tiers if tier.up_to is None or number <= tier.up_to)


@given(api_prices(), many, many)
def test_the_parts_add_up_to_the_charged_calls(price: ApiPrice, earlier: int, calls: int) -> None:
    parts = price_calls(price, earlier, calls)
    assert sum(part.quantity for part in parts) == calls
    assert all(part.quantity > 0 for part in parts)


@given(api_prices(models=(PriceModel.PER_CALL, PriceModel.GRADUATED), tier_end_max=30), few, few)
def test_each_call_costs_what_its_own_tier_says(price: ApiPrice, earlier: int, calls: int) -> None:
    numbers = range(earlier + 1, earlier + calls + 1)
    naive = sum((Fraction(tier_price(price, n)) for n in numbers if n > price.free_calls), Fraction(0))
    assert exact(price_calls(price, earlier, calls)) == naive


@given(api_prices(models=(PriceModel.VOLUME,), tier_end_max=30), few, few)
def test_by_volume_every_charged_call_costs_what_the_tier_that_is_reached_says(
    price: ApiPrice, earlier: int, calls: int
) -> None:
    reached = tier_price(price, earlier + calls)
    paid = sum(n > price.free_calls for n in range(earlier + 1, earlier + calls + 1))
    parts = price_calls(price, earlier, calls)
    assert exact(parts) == paid * Fraction(reached)
    assert {part.unit_price for part in parts} <= {Decimal(0), reached}


@given(call_by_call, many, many, many)
def test_calls_priced_in_two_goes_cost_what_they_cost_in_one(price: ApiPrice, earlier: int, k: int, rest: int) -> None:
    together = exact(price_calls(price, earlier, k + rest))
    assert exact(price_calls(price, earlier, k)) + exact(price_calls(price, earlier + k, rest)) == together


@given(api_prices(), many)
def test_the_first_calls_of_a_month_are_free(price: ApiPrice, more: int) -> None:
    assert exact(price_calls(price, 0, price.free_calls)) == 0
    if price.model is not PriceModel.VOLUME:
        without = price_calls(ApiPrice(price.api, price.model, price.tiers), price.free_calls, more)
        assert exact(price_calls(price, 0, price.free_calls + more)) == exact(without)


@given(api_prices(), many)
def test_free_calls_are_not_given_twice(price: ApiPrice, calls: int) -> None:
    no_longer_free = ApiPrice(price.api, price.model, price.tiers)
    assert price_calls(price, price.free_calls, calls) == price_calls(no_longer_free, price.free_calls, calls)


@given(api_prices(), many)
def test_no_calls_have_no_parts(price: ApiPrice, earlier: int) -> None:
    assert price_calls(price, earlier, 0) == ()


GRADUATED = ApiPrice(
    "CompareFace",
    PriceModel.GRADUATED,
    (Tier(1_000, Decimal("0.02")), Tier(10_000, Decimal("0.015")), Tier(None, Decimal("0.01"))),
    free_calls=100,
)
VOLUME = ApiPrice("LivenessCheck", PriceModel.VOLUME, GRADUATED.tiers, free_calls=100)


@pytest.mark.parametrize(
    ("calls", "parts"),
    [
        (1, [(1, "0")]),
        (100, [(100, "0")]),
        (101, [(100, "0"), (1, "0.02")]),
        (1_000, [(100, "0"), (900, "0.02")]),
        (1_001, [(100, "0"), (900, "0.02"), (1, "0.015")]),
        (10_000, [(100, "0"), (900, "0.02"), (9_000, "0.015")]),
        (10_001, [(100, "0"), (900, "0.02"), (9_000, "0.015"), (1, "0.01")]),
    ],
)
def test_graduated_tiers_begin_and_end_with_the_very_call(calls: int, parts: list[tuple[int, str]]) -> None:
    found = price_calls(GRADUATED, 0, calls)
    assert [(part.quantity, part.unit_price) for part in found] == [(n, Decimal(price)) for n, price in parts]
    tiers = [(1, 100), (1, 1_000), (1_001, 10_000), (10_001, None)]
    assert [(part.tier_from, part.tier_up_to) for part in found] == tiers[: len(found)]


@pytest.mark.parametrize(
    ("calls", "unit_price", "tier"),
    [
        (101, "0.02", (1, 1_000)),
        (1_000, "0.02", (1, 1_000)),
        (1_001, "0.015", (1_001, 10_000)),
        (10_000, "0.015", (1_001, 10_000)),
        (10_001, "0.01", (10_001, None)),
    ],
)
def test_a_volume_tier_is_reached_by_its_first_call(calls: int, unit_price: str, tier: tuple[int, int | None]) -> None:
    free, paid = price_calls(VOLUME, 0, calls)
    assert free == BillLinePart(100, Decimal(0), 1, 100)
    assert paid == BillLinePart(calls - 100, Decimal(unit_price), *tier)


def plan(*prices: ApiPrice, currency: str = "CNY", plan_id: str = "standard") -> PricePlan:
    return PricePlan(plan_id, 3, currency, prices)


def per_call(unit_price: str, api: str = "DetectAuth", *uncharged: str) -> ApiPrice:
    tiers = (Tier(None, Decimal(unit_price)),)
    return ApiPrice(api, PriceModel.PER_CALL, tiers, uncharged_result_codes=frozenset(uncharged))


def used(
    calls: int, api: str = "DetectAuth", code: str = "", month: Month = NOVEMBER, *, earlier_calls: int = 0
) -> MonthUsage:
    return MonthUsage(ACCOUNT, month, api, code, calls, earlier_calls)


def line_of(usage: list[MonthUsage], price_plan: PricePlan) -> BillLine:
    (line,), unrated = rate(usage, lambda _: price_plan)
    assert unrated == ()
    return line


def test_a_line_says_what_it_was_rated_with() -> None:
    line = line_of([used(3)], plan(per_call("0.0125")))
    assert line == BillLine(
        api="DetectAuth",
        occurred_month=NOVEMBER,
        calls=3,
        charged_calls=3,
        parts=(BillLinePart(3, Decimal("0.0125"), 1, None),),
        exact_amount=Decimal("0.0375"),
        amount=Decimal("0.04"),
        price_plan_id="standard",
        price_plan_version=3,
    )


def test_calls_with_an_uncharged_result_code_are_counted_but_not_charged() -> None:
    usage = [used(5), used(7, code="E.NoFace"), used(11, code="E.Blurred")]
    line = line_of(usage, plan(per_call("1", "DetectAuth", "E.NoFace")))
    assert (line.calls, line.charged_calls, line.amount) == (23, 16, Decimal(16))


def test_calls_that_are_not_charged_use_up_no_free_calls() -> None:
    price = ApiPrice("DetectAuth", PriceModel.PER_CALL, (Tier(None, Decimal(1)),), 10, frozenset({"E"}))
    assert line_of([used(10, code="E"), used(12)], plan(price)).amount == 2


def test_only_uncharged_calls_make_a_line_that_costs_nothing() -> None:
    line = line_of([used(9, code="E")], plan(per_call("1", "DetectAuth", "E")))
    assert (line.calls, line.charged_calls, line.parts, line.amount) == (9, 0, (), Decimal(0))


def test_a_line_is_rounded_once_not_call_by_call_nor_part_by_part() -> None:
    assert line_of([used(3)], plan(per_call("0.005"))).amount == Decimal("0.02")  # 0.015; each call alone: 0.03
    tiers = (Tier(1, Decimal("0.004")), Tier(2, Decimal("0.0041")), Tier(None, Decimal("0.0042")))
    graduated = ApiPrice("DetectAuth", PriceModel.GRADUATED, tiers)
    line = line_of([used(3)], plan(graduated))  # each part alone is rounded to nothing
    assert (line.exact_amount, line.amount) == (Decimal("0.0123"), Decimal("0.01"))


@pytest.mark.parametrize(
    ("unit_price", "currency", "amount"),
    [
        ("0.005", "USD", "0.01"),
        ("0.004999999", "USD", "0.00"),
        ("0.025", "USD", "0.03"),  # half up, not half even
        ("0.5", "JPY", "1"),
        ("2.5", "JPY", "3"),
        ("0.499999999", "JPY", "0"),
        ("0.0005", "KWD", "0.001"),
        ("0.0025", "KWD", "0.003"),
        ("0.000499999", "KWD", "0.000"),
    ],
)
def test_a_line_is_rounded_half_up_to_the_minor_unit_of_its_currency(
    unit_price: str, currency: str, amount: str
) -> None:
    assert str(line_of([used(1)], plan(per_call(unit_price), currency=currency)).amount) == amount


@settings(deadline=None)
@given(api_prices(), many, st.sampled_from(["JPY", "CNY", "USD", "KWD"]), st.integers(0, TRILLION))
def test_amounts_are_exact_up_to_trillions_of_calls(price: ApiPrice, calls: int, currency: str, earlier: int) -> None:
    line = line_of([used(calls, earlier_calls=earlier)], plan(price, currency=currency))
    units = 10 ** MINOR_UNITS[currency]
    assert Fraction(line.exact_amount) == exact(line.parts)
    assert sum(Fraction(part.exact_amount) for part in line.parts) == exact(line.parts)
    assert Fraction(line.amount) == Fraction(floor(exact(line.parts) * units + Fraction(1, 2)), units)


def test_the_smallest_price_of_a_trillion_calls_is_exact() -> None:
    line = line_of([used(TRILLION + 1)], plan(per_call("0.000000001")))
    assert (line.exact_amount, line.amount) == (Decimal("1000.000000001"), Decimal("1000.00"))


def test_usage_by_result_code_is_priced_as_one() -> None:
    together = line_of([used(1_500)], plan(GRADUATED, per_call("1")))
    apart = line_of([used(500), used(400, code="A"), used(600, code="B")], plan(GRADUATED, per_call("1")))
    assert (apart.parts, apart.amount) == (together.parts, together.amount)


usages = st.lists(
    st.builds(
        used,
        st.integers(1, 10**6),
        st.sampled_from(["A", "B", "C", "D", "E"]),
        st.sampled_from(["", "E.NoFace", "E.Blurred"]),
        st.sampled_from([OCTOBER, NOVEMBER]),
    ),
    max_size=12,
    unique_by=lambda usage: usage[1:4],
)
PLAN_OF_A_TO_C = plan(per_call("0.0033", "A"), per_call("0.00007", "B", "E.NoFace"), per_call("12.5", "C"))


@given(usages)
def test_lines_are_sorted_by_month_and_api_and_apis_without_a_price_are_named(usage: list[MonthUsage]) -> None:
    lines, unrated = rate(usage, lambda _: PLAN_OF_A_TO_C)
    keys = [(line.occurred_month, line.api) for line in lines]
    assert keys == sorted({(each.occurred_month, each.api) for each in usage if each.api in "ABC"})
    assert unrated == tuple(sorted({each.api for each in usage if each.api in "DE"}))
    assert sum(line.calls for line in lines) == sum(each.calls for each in usage if each.api in "ABC")


@given(st.data(), usages)
def test_the_order_in_which_usage_is_read_makes_no_difference(data: st.DataObject, usage: list[MonthUsage]) -> None:
    assert rate(data.draw(st.permutations(usage)), lambda _: PLAN_OF_A_TO_C) == rate(usage, lambda _: PLAN_OF_A_TO_C)


def test_without_a_price_plan_every_api_is_unrated() -> None:
    assert rate([used(1, "B"), used(1, "A"), used(2, "A", "E")], lambda _: None) == ((), ("A", "B"))


def test_no_usage_has_no_lines() -> None:
    assert rate([], lambda _: None) == ((), ())


def test_carried_calls_are_a_line_of_their_own_at_the_price_of_their_own_month() -> None:
    plans = {OCTOBER: plan(per_call("1"), plan_id="old"), NOVEMBER: plan(per_call("2"), plan_id="new")}
    lines, unrated = rate([used(5), used(3, month=OCTOBER)], plans.get)
    assert unrated == ()
    assert [(line.occurred_month, line.price_plan_id, line.amount) for line in lines] == [
        (OCTOBER, "old", Decimal(3)),
        (NOVEMBER, "new", Decimal(10)),
    ]


def test_an_api_is_unrated_if_only_its_carried_calls_have_no_price() -> None:
    lines, unrated = rate([used(5), used(3, month=OCTOBER)], {NOVEMBER: plan(per_call("2"))}.get)
    assert ([line.occurred_month for line in lines], unrated) == ([NOVEMBER], ("DetectAuth",))


@given(call_by_call, many, many)
def test_carried_calls_get_neither_free_calls_nor_cheap_tiers_twice(price: ApiPrice, in_time: int, late: int) -> None:
    all_in_time = line_of([used(in_time + late)], plan(price))
    on_time = line_of([used(in_time)], plan(price))
    carried = line_of([used(late, earlier_calls=in_time)], plan(price))
    assert Fraction(on_time.exact_amount) + Fraction(carried.exact_amount) == Fraction(all_in_time.exact_amount)


def test_only_charged_earlier_calls_move_carried_calls_up_the_tiers() -> None:
    price = ApiPrice("DetectAuth", PriceModel.PER_CALL, (Tier(None, Decimal(1)),), 10, frozenset({"E"}))
    usage = [used(4, earlier_calls=6), used(1, code="E", earlier_calls=1_000)]
    assert line_of(usage, plan(price)).amount == 0
