"""Which price plans are accepted, and the accounts that have them."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.billing.accounts import PRICES_MAX, TIERS_MAX, AccountKeeper, check_prices
from metering.billing.rating import price_calls
from metering.errors import MeteringError, Reason
from metering.model import (
    FROM_THE_BEGINNING,
    Account,
    AccountId,
    ApiPrice,
    Money,
    Month,
    Page,
    PriceModel,
    PricePlan,
    PricePlanAssignment,
    ServiceState,
    ServiceStatus,
    Tier,
)
from tests.support.service import FakeClock

ACCOUNT = AccountId("acme")
NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)


def per_call(unit_price: str, api: str = "DetectAuth", free_calls: int = 0) -> ApiPrice:
    return ApiPrice(api, PriceModel.PER_CALL, (Tier(None, Decimal(unit_price)),), free_calls)


def tiered(*tiers: tuple[int | None, str], model: PriceModel = PriceModel.GRADUATED) -> ApiPrice:
    return ApiPrice("DetectAuth", model, tuple(Tier(up_to, Decimal(price)) for up_to, price in tiers))


def refused_field(*prices: ApiPrice) -> str:
    with pytest.raises(MeteringError) as refused:
        check_prices(prices)
    assert refused.value.reason is Reason.INVALID_FIELD
    (violation,) = refused.value.violations
    assert refused.value.message == f"{violation.field}: {violation.description}"
    return violation.field


@pytest.mark.parametrize("price", ["0", "0.000000001", "0.0125", "1000000", "999999.999999999", "1E+3"])
def test_prices_with_up_to_nine_decimals_are_accepted(price: str) -> None:
    check_prices((per_call(price),))


@pytest.mark.parametrize(
    "price", ["-0.01", "0.0000000001", "1000000.000000001", "1000001", "NaN", "sNaN", "Infinity", "-Infinity"]
)
def test_what_is_no_price_is_refused(price: str) -> None:
    assert refused_field(per_call("1", "Other"), per_call(price)) == "price_plan.prices[1].per_call.unit_price"


def test_a_price_plan_needs_a_price() -> None:
    assert refused_field() == "price_plan.prices"


def test_the_number_of_prices_is_bounded() -> None:
    prices = [per_call("1", f"api-{number}") for number in range(PRICES_MAX + 1)]
    check_prices(tuple(prices[:PRICES_MAX]))
    assert refused_field(*prices) == "price_plan.prices"


def test_an_api_has_one_price_only() -> None:
    assert refused_field(per_call("1"), per_call("2", "Other"), per_call("1")) == "price_plan.prices[2].api"


def test_there_are_no_fewer_free_calls_than_none() -> None:
    assert refused_field(per_call("1", free_calls=-1)) == "price_plan.prices[0].free_calls"


@pytest.mark.parametrize("model", [PriceModel.GRADUATED, PriceModel.VOLUME])
@pytest.mark.parametrize(
    ("tiers", "field"),
    [
        ([], "tiers"),
        ([(10, "1")], "tiers[0].up_to"),  # the last tier must have no end
        ([(None, "1"), (None, "1")], "tiers[0].up_to"),  # and no other may
        ([(10, "1"), (10, "1"), (None, "1")], "tiers[1].up_to"),
        ([(10, "1"), (9, "1"), (None, "1")], "tiers[1].up_to"),
        ([(0, "1"), (None, "1")], "tiers[0].up_to"),
        ([(-5, "1"), (None, "1")], "tiers[0].up_to"),
        ([(10, "1"), (None, "-1")], "tiers[1].unit_price"),
        ([(10, "0.0000000001"), (None, "1")], "tiers[0].unit_price"),
    ],
)
def test_a_malformed_tier_is_named(model: PriceModel, tiers: list[tuple[int | None, str]], field: str) -> None:
    assert refused_field(tiered(*tiers, model=model)) == f"price_plan.prices[0].{model.lower()}.{field}"


def test_the_number_of_tiers_is_bounded() -> None:
    ends: list[tuple[int | None, str]] = [(number, "1") for number in range(1, TIERS_MAX)]
    check_prices((tiered(*ends, (None, "1")),))
    assert refused_field(tiered(*ends, (TIERS_MAX, "1"), (None, "1"))) == "price_plan.prices[0].graduated.tiers"


any_price = st.builds(
    ApiPrice,
    api=st.just("DetectAuth"),
    model=st.sampled_from([PriceModel.GRADUATED, PriceModel.VOLUME]),
    tiers=st.lists(
        st.builds(Tier, st.none() | st.integers(-1, 20), st.sampled_from([Decimal(1), Decimal(-1), Decimal("0.5")])),
        max_size=4,
    ).map(tuple),
    free_calls=st.integers(-1, 20),
)


@given(any_price | any_price.map(lambda price: replace(price, tiers=(*price.tiers, Tier(None, Decimal(2))))))
def test_whatever_is_accepted_can_rate_any_number_of_calls(price: ApiPrice) -> None:
    try:
        check_prices((price,))
    except MeteringError:
        return
    for earlier in (0, 3, 25):
        for calls in range(1, 25):
            parts = price_calls(price, earlier, calls)
            assert sum(part.quantity for part in parts) == calls
            assert all(part.unit_price >= 0 for part in parts)


class Book:
    """Accounts and price plans in memory."""

    def __init__(self, *plans: PricePlan) -> None:
        self.plans = {plan.price_plan_id: plan for plan in plans}
        self.accounts: dict[AccountId, Account] = {}

    async def activate(
        self, account_id: AccountId, currency: str, first_plan: PricePlanAssignment | None, now: datetime
    ) -> bool:
        if account_id in self.accounts:
            return False
        status = ServiceStatus(account_id, ServiceState.ACTIVE, "", Money(Decimal(0), currency), 1)
        assignments = (first_plan,) if first_plan else ()
        self.accounts[account_id] = Account(account_id, currency, Decimal(0), now, status, assignments)
        return True

    async def account(self, account_id: AccountId) -> Account | None:
        return self.accounts.get(account_id)

    async def assign_price_plan(self, account_id: AccountId, price_plan_id: str, from_month: Month) -> None:
        account = self.accounts[account_id]
        kept = [each for each in account.price_plans if each.from_month != from_month]
        plans = sorted([*kept, PricePlanAssignment(price_plan_id, from_month)], key=lambda each: each.from_month)
        self.accounts[account_id] = replace(account, price_plans=tuple(plans))

    async def price_plan(self, price_plan_id: str, version: int = 0) -> PricePlan | None:
        plan = self.plans.get(price_plan_id)
        return plan if plan and version in {0, plan.version} else None

    async def list_price_plans(self, page_size: int, page_token: str) -> Page[PricePlan]:
        return Page(tuple(plan for _, plan in sorted(self.plans.items()))[:page_size], "")

    async def put_price_plan(self, plan: PricePlan, now: datetime) -> PricePlan:
        self.plans[plan.price_plan_id] = replace(plan, version=1)
        return self.plans[plan.price_plan_id]


@pytest.fixture
def book() -> Book:
    prices = (per_call("0.0125"),)
    return Book(PricePlan("standard", 1, "CNY", prices), PricePlan("dollars", 1, "USD", prices))


@pytest.fixture
def keeper(book: Book) -> AccountKeeper:
    return AccountKeeper(book, FakeClock(NOW))


@pytest.mark.parametrize("plan", ["standard", ""])
async def test_activating_an_account_again_changes_nothing(keeper: AccountKeeper, plan: str) -> None:
    first = await keeper.activate(ACCOUNT, "CNY", plan)
    assert first.activated_at == NOW
    assert first.price_plans == ((PricePlanAssignment(plan, FROM_THE_BEGINNING),) if plan else ())
    assert await keeper.activate(ACCOUNT, "CNY", plan) == first


async def test_an_account_keeps_the_currency_it_was_activated_with(keeper: AccountKeeper) -> None:
    await keeper.activate(ACCOUNT, "CNY", "")
    with pytest.raises(MeteringError, match="was activated before, in CNY with no price plan"):
        await keeper.activate(ACCOUNT, "USD", "")


@pytest.mark.parametrize(("currency", "plan"), [("USD", "dollars"), ("USD", ""), ("CNY", "")])
async def test_activating_an_account_otherwise_than_before_is_refused(
    keeper: AccountKeeper, currency: str, plan: str
) -> None:
    first = await keeper.activate(ACCOUNT, "CNY", "standard")
    with pytest.raises(MeteringError, match="was activated before, in CNY with price plan standard") as refused:
        await keeper.activate(ACCOUNT, currency, plan)
    assert refused.value.reason is Reason.ACCOUNT_ALREADY_ACTIVATED
    assert await keeper.account(ACCOUNT) == first


async def test_an_account_that_was_given_another_plan_since_can_be_activated_again(keeper: AccountKeeper) -> None:
    await keeper.activate(ACCOUNT, "CNY", "standard")
    await keeper.put_price_plan(PricePlan("newer", 0, "CNY", (per_call("1"),)))
    changed = await keeper.assign_price_plan(ACCOUNT, "newer", Month(date(2026, 12, 1)))
    assert [each.price_plan_id for each in changed.price_plans] == ["standard", "newer"]
    assert await keeper.activate(ACCOUNT, "CNY", "standard") == changed


@pytest.mark.parametrize(
    ("currency", "plan", "reason"),
    [
        ("RMB", "", Reason.INVALID_FIELD),
        ("CNY", "none", Reason.PRICE_PLAN_NOT_FOUND),
        ("CNY", "dollars", Reason.CURRENCY_MISMATCH),
    ],
)
async def test_an_account_is_not_activated_with_what_does_not_fit(
    keeper: AccountKeeper, book: Book, currency: str, plan: str, reason: Reason
) -> None:
    with pytest.raises(MeteringError) as refused:
        await keeper.activate(ACCOUNT, currency, plan)
    assert refused.value.reason is reason
    assert not book.accounts


@pytest.mark.parametrize(
    ("plan", "reason"), [("none", Reason.PRICE_PLAN_NOT_FOUND), ("dollars", Reason.CURRENCY_MISMATCH)]
)
async def test_a_plan_that_does_not_fit_is_not_assigned(keeper: AccountKeeper, plan: str, reason: Reason) -> None:
    account = await keeper.activate(ACCOUNT, "CNY", "standard")
    with pytest.raises(MeteringError) as refused:
        await keeper.assign_price_plan(ACCOUNT, plan, Month(date(2026, 12, 1)))
    assert refused.value.reason is reason
    assert await keeper.account(ACCOUNT) == account


async def test_an_account_that_was_not_activated_is_not_found(keeper: AccountKeeper) -> None:
    with pytest.raises(MeteringError, match="ActivateAccount does it") as refused:
        await keeper.account(ACCOUNT)
    assert refused.value.reason is Reason.ACCOUNT_NOT_FOUND
    with pytest.raises(MeteringError) as refused:
        await keeper.assign_price_plan(ACCOUNT, "standard", Month(date(2026, 12, 1)))
    assert refused.value.reason is Reason.ACCOUNT_NOT_FOUND


async def test_a_plan_is_found_by_its_id_and_version(keeper: AccountKeeper) -> None:
    assert await keeper.price_plan("standard") == await keeper.price_plan("standard", 1)
    with pytest.raises(MeteringError, match="there is no version 2 of price plan 'standard'") as refused:
        await keeper.price_plan("standard", 2)
    assert refused.value.reason is Reason.PRICE_PLAN_NOT_FOUND


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (PricePlan("p", 0, "RMB", (per_call("1"),)), "price_plan.currency"),
        (PricePlan("p", 0, "CNY", ()), "price_plan.prices"),
    ],
)
async def test_a_malformed_plan_is_not_stored(keeper: AccountKeeper, book: Book, plan: PricePlan, field: str) -> None:
    with pytest.raises(MeteringError) as refused:
        await keeper.put_price_plan(plan)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert "p" not in book.plans
