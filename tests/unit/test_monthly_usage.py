"""GetMonthlyUsage, on books in memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing.months import month_of
from metering.billing.rating import rate
from metering.billing.usage import monthly_usage
from metering.errors import MeteringError, Reason
from metering.model import (
    AccountId,
    ApiPrice,
    ApiUsage,
    Bill,
    BillState,
    Money,
    Month,
    MonthState,
    MonthUsage,
    PriceModel,
    PricePlan,
    Tier,
    Usage,
)

ACCOUNT = AccountId("acme")
OCTOBER, NOVEMBER = Month(date(2026, 10, 1)), Month(date(2026, 11, 1))


def per_call(api: str, unit_price: str, *uncharged: str) -> ApiPrice:
    tiers = (Tier(None, Decimal(unit_price)),)
    return ApiPrice(api, PriceModel.PER_CALL, tiers, uncharged_result_codes=frozenset(uncharged))


STANDARD = PricePlan("standard", 1, "CNY", (per_call("DetectAuth", "0.0125", "E"), per_call("CompareFace", "2")))


@dataclass
class Found:
    """What there is about an account in a month; also its plans."""

    daily: Sequence[Usage] = ()
    plan_of: dict[Month, PricePlan] = field(default_factory=lambda: {OCTOBER: STANDARD, NOVEMBER: STANDARD})
    currency: str = "CNY"
    closed: bool = False
    bill: Bill | None = None

    @property
    def usage(self) -> Sequence[MonthUsage]:
        counts: Counter[tuple[Month, str, str]] = Counter()
        for day, api, code, calls in self.daily:
            counts[month_of(day), api, code] += calls
        return [MonthUsage(ACCOUNT, *key, calls, 0) for key, calls in sorted(counts.items())]

    @property
    def plans(self) -> "Found":
        return self

    def plan(self, account_id: AccountId, month: Month) -> PricePlan | None:
        assert account_id == ACCOUNT
        return self.plan_of.get(month)

    def issue_bill(self) -> Bill:
        lines, _ = rate(self.usage, self.plan_of.get)
        self.closed = True
        self.bill = Bill(
            account_id=ACCOUNT,
            month=NOVEMBER,
            currency=self.currency,
            state=BillState.ISSUED,
            total=sum((line.amount for line in lines), Decimal(0)),
            deducted=Decimal(0),
            issued_at=datetime(2026, 12, 1, tzinfo=UTC),
            due_date=date(2026, 12, 3),
            lines=lines,
        )
        return self.bill


@dataclass
class Book:
    found: Found | None

    async def account_month(self, account_id: AccountId, month: Month) -> Found | None:
        assert (account_id, month) == (ACCOUNT, NOVEMBER)
        return self.found


def november(day: int) -> date:
    return NOVEMBER + timedelta(days=day - 1)


async def test_usage_is_told_by_api_and_day_and_priced() -> None:
    daily = [
        Usage(november(2), "DetectAuth", "", 3),
        Usage(november(2), "DetectAuth", "E", 2),
        Usage(november(1), "DetectAuth", "", 1),
        Usage(november(9), "CompareFace", "E", 5),
    ]
    usage = await monthly_usage(Book(Found(daily)), ACCOUNT, NOVEMBER)
    assert usage.apis == (
        ApiUsage("CompareFace", 5, 5, ((november(9), 5),)),
        ApiUsage("DetectAuth", 6, 4, ((november(1), 1), (november(2), 5))),
    )
    assert (usage.total_calls, usage.charged_calls, usage.carried_calls) == (11, 9, 0)
    assert usage.charges == Money(Decimal("10.05"), "CNY")
    assert (usage.state, usage.unrated_apis) == (MonthState.OPEN, ())


async def test_calls_of_earlier_months_are_carried_ones() -> None:
    daily = [Usage(november(1), "DetectAuth", "", 3), Usage(november(1) - timedelta(days=1), "DetectAuth", "", 4)]
    usage = await monthly_usage(Book(Found(daily)), ACCOUNT, NOVEMBER)
    assert (usage.total_calls, usage.carried_calls) == (7, 4)
    (api,) = usage.apis
    assert api.days == ((date(2026, 10, 31), 4), (date(2026, 11, 1), 3))
    assert usage.charges == Money(Decimal("0.09"), "CNY")  # 0.0375 and 0.05, each a line


async def test_without_a_price_the_calls_are_told_but_no_charges() -> None:
    daily = [Usage(november(1), "DetectAuth", "", 3), Usage(november(1), "Unpriced", "", 4)]
    usage = await monthly_usage(Book(Found(daily)), ACCOUNT, NOVEMBER)
    assert (usage.total_calls, usage.charges, usage.unrated_apis) == (7, None, ("Unpriced",))
    assert [(api.api, api.calls, api.charged_calls) for api in usage.apis] == [
        ("DetectAuth", 3, 3),
        ("Unpriced", 4, 0),
    ]


@pytest.mark.parametrize(("closed", "state"), [(False, MonthState.OPEN), (True, MonthState.CLOSED)])
async def test_a_month_without_calls_costs_nothing(*, closed: bool, state: MonthState) -> None:
    usage = await monthly_usage(Book(Found(closed=closed, currency="JPY")), ACCOUNT, NOVEMBER)
    assert (usage.total_calls, usage.apis, usage.charges) == (0, (), Money(Decimal(0), "JPY"))
    assert usage.state is state


async def test_an_unknown_account_is_not_found() -> None:
    with pytest.raises(MeteringError) as refused:
        await monthly_usage(Book(None), ACCOUNT, NOVEMBER)
    assert refused.value.reason is Reason.ACCOUNT_NOT_FOUND


async def test_the_charges_of_a_closed_month_are_those_of_its_bill_whatever_prices_became() -> None:
    found = Found([Usage(november(1), "DetectAuth", "", 100)])
    bill = found.issue_bill()
    found.plan_of[NOVEMBER] = PricePlan("dear", 9, "CNY", (per_call("DetectAuth", "1000"),))
    usage = await monthly_usage(Book(found), ACCOUNT, NOVEMBER)
    assert usage.charges == Money(bill.total, "CNY") == Money(Decimal("1.25"), "CNY")
    assert (usage.charged_calls, usage.state) == (100, MonthState.CLOSED)


async def test_a_billed_month_has_no_unrated_apis_even_if_its_plan_is_gone() -> None:
    found = Found([Usage(november(1), "DetectAuth", "", 100)])
    found.issue_bill()
    found.plan_of.clear()
    usage = await monthly_usage(Book(found), ACCOUNT, NOVEMBER)
    assert (usage.unrated_apis, usage.charges) == ((), Money(Decimal("1.25"), "CNY"))


daily_usage = st.lists(
    st.builds(
        Usage,
        st.dates(date(2026, 9, 20), date(2026, 11, 30)).filter(lambda day: day >= OCTOBER),
        st.sampled_from(["DetectAuth", "CompareFace"]),
        st.sampled_from(["", "E"]),
        st.integers(1, 10**9),
    ),
    max_size=15,
    unique_by=lambda usage: usage[:3],
)


@settings(max_examples=60, deadline=None)
@given(daily_usage)
async def test_the_estimate_of_a_month_is_what_its_bill_then_says(daily: list[Usage]) -> None:
    found = Found(daily)
    estimate = await monthly_usage(Book(found), ACCOUNT, NOVEMBER)
    bill = found.issue_bill()
    closed = await monthly_usage(Book(found), ACCOUNT, NOVEMBER)
    assert estimate.charges == closed.charges == Money(bill.total, "CNY")
    assert (estimate.apis, estimate.total_calls) == (closed.apis, closed.total_calls)


@settings(max_examples=60, deadline=None)
@given(daily_usage)
async def test_days_add_up_to_apis_and_apis_to_the_total(daily: list[Usage]) -> None:
    usage = await monthly_usage(Book(Found(daily)), ACCOUNT, NOVEMBER)
    assert usage.total_calls == sum(each.calls for each in daily) == sum(api.calls for api in usage.apis)
    assert all(api.calls == sum(calls for _, calls in api.days) for api in usage.apis)
    assert all(0 <= api.charged_calls <= api.calls for api in usage.apis)
    assert usage.carried_calls == sum(each.calls for each in daily if each.occurred_on < NOVEMBER)
    assert [api.api for api in usage.apis] == sorted({each.api for each in daily})
