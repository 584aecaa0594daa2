"""Between messages and the model: nothing is lost on the way."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2
from hypothesis import given
from hypothesis import strategies as st

from faceid.metering.v1 import resources_pb2 as pb
from faceid.metering.v1.metering_service_pb2 import RecordCallRequest
from metering.billing.accounts import check_prices
from metering.errors import MeteringError, Reason
from metering.model import (
    EPOCH,
    FROM_THE_BEGINNING,
    Account,
    AccountId,
    ApiPrice,
    ApiUsage,
    Bill,
    BillLine,
    BillLinePart,
    BillState,
    Call,
    CallKind,
    Money,
    Month,
    MonthlyUsage,
    MonthState,
    PriceModel,
    PricePlan,
    PricePlanAssignment,
    RecordedCall,
    RejectedCall,
    ServiceState,
    ServiceStatus,
    Tier,
)
from metering.rpc import convert
from tests.support.prices import unit_prices

ACCOUNT = AccountId("acme")
CALL_ID = "0192f0c1-2345-7abc-8def-0123456789ab"
NOVEMBER = Month(date(2026, 11, 1))
NOON = datetime(2026, 11, 23, 4, 5, 6, 789012, tzinfo=UTC)
INT64_MAX = 2**63 - 1

nanos_of = st.integers(-INT64_MAX * 10**9, INT64_MAX * 10**9)
names = st.text("abcXYZ019._:@/-", min_size=1, max_size=64)


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def refused_field(message: pb.PricePlan) -> str:
    with pytest.raises(MeteringError) as refused:
        convert.from_price_plan(message)
    assert refused.value.reason is Reason.INVALID_FIELD
    (violation,) = refused.value.violations
    return violation.field


@given(nanos_of)
def test_any_amount_of_up_to_nine_decimals_survives_as_money(nanos: int) -> None:
    amount = Decimal(nanos).scaleb(-9)
    message = convert.money(amount, "CNY")
    assert Fraction(message.units) + Fraction(message.nanos, 10**9) == Fraction(nanos, 10**9)
    assert convert.from_money(message, "amount") == Money(amount, "CNY")


@given(st.integers(-INT64_MAX, INT64_MAX), st.integers(-999_999_999, 999_999_999))
def test_money_whose_signs_agree_is_read_exactly_and_other_money_refused(units: int, nanos: int) -> None:
    message = money_pb2.Money(currency_code="CNY", units=units, nanos=nanos)
    if units * nanos >= 0:
        amount = convert.from_money(message, "amount").amount
        assert Fraction(amount) == Fraction(units) + Fraction(nanos, 10**9)
    else:
        with pytest.raises(MeteringError) as refused:
            convert.from_money(message, "amount")
        assert [violation.field for violation in refused.value.violations] == ["amount.nanos"]


@pytest.mark.parametrize(
    ("amount", "units", "nanos"),
    [
        ("0", 0, 0),
        ("0.00", 0, 0),
        ("12.34", 12, 340_000_000),
        ("-12.34", -12, -340_000_000),
        ("-0.01", 0, -10_000_000),
        ("0.000000001", 0, 1),
        ("-0.999999999", 0, -999_999_999),
        ("1E+3", 1_000, 0),
    ],
)
def test_money_as_google_writes_it(amount: str, units: int, nanos: int) -> None:
    assert convert.money(Decimal(amount), "JPY") == money_pb2.Money(currency_code="JPY", units=units, nanos=nanos)


@pytest.mark.parametrize("nanos", [10**9, -(10**9), 2**31 - 1, -(2**31)])
def test_nanos_that_make_a_unit_are_refused(nanos: int) -> None:
    with pytest.raises(MeteringError):
        convert.from_money(money_pb2.Money(units=0, nanos=nanos), "amount")


@st.composite
def api_prices(draw: st.DrawFn, api: str) -> ApiPrice:
    model = draw(st.sampled_from(PriceModel))
    ends: list[int] = []
    if model is not PriceModel.PER_CALL:
        ends = sorted(draw(st.sets(st.integers(1, INT64_MAX), max_size=4)))
    tiers = tuple(Tier(end, draw(unit_prices)) for end in [*ends, None])
    return ApiPrice(api, model, tiers, draw(st.integers(0, INT64_MAX)), draw(st.frozensets(names, max_size=3)))


@st.composite
def price_plans(draw: st.DrawFn) -> PricePlan:
    apis = draw(st.lists(names, max_size=4, unique=True))
    return PricePlan(draw(names), 0, "CNY", tuple(draw(api_prices(api)) for api in apis))


@given(price_plans())
def test_a_price_plan_reads_as_it_was_written(plan: PricePlan) -> None:
    message = convert.price_plan(plan)
    assert convert.from_price_plan(pb.PricePlan.FromString(message.SerializeToString())) == plan
    if plan.prices:
        check_prices(plan.prices)


@given(price_plans())
def test_written_again_a_price_plan_is_the_same_message(plan: PricePlan) -> None:
    message = convert.price_plan(plan)
    assert convert.price_plan(convert.from_price_plan(message)) == message


def test_the_version_of_a_price_plan_is_the_servers_to_set() -> None:
    message = convert.price_plan(PricePlan("p", 7, "CNY", ()))
    assert message.version == 7
    assert convert.from_price_plan(message).version == 0


def plan_with(unit_price: str) -> pb.PricePlan:
    price = pb.ApiPrice(api="DetectAuth", per_call=pb.PerCallPrice(unit_price=unit_price))
    return pb.PricePlan(price_plan_id="p", currency="CNY", prices=[price])


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("0", "0"),
        ("0.0", "0"),
        ("0.000000000", "0"),
        ("00.0125", "0.0125"),
        ("0.01250", "0.0125"),
        ("100", "100"),
        ("100.0", "100"),
        ("1000000", "1000000"),
        ("0.000000001", "0.000000001"),
    ],
)
def test_a_price_is_told_without_exponent_and_without_idle_zeros(sent: str, told: str) -> None:
    plan = convert.from_price_plan(plan_with(sent))
    assert convert.price_plan(plan).prices[0].per_call.unit_price == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".5",
        "5.",
        "-1",
        "+1",
        "1,5",
        "1e3",
        "1E-3",
        "0x10",
        "1_000",
        " 1",
        "1\n",
        "1\0",
        "NaN",
        "Infinity",
        "sNaN",
        "1.2.3",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "\N{FULLWIDTH DIGIT ONE}",
        "1" * 19,
        "0." + "1" * 19,
    ],
)
def test_a_text_that_is_no_plain_decimal_is_no_price(text: str) -> None:
    assert refused_field(plan_with(text)) == "price_plan.prices[0].per_call.unit_price"


@given(st.text(max_size=12))
def test_whatever_is_sent_as_a_price_is_a_decimal_or_refused(text: str) -> None:
    try:
        plan = convert.from_price_plan(plan_with(text))
    except MeteringError:
        return
    price = plan.prices[0].tiers[0].unit_price
    assert Fraction(price) == Fraction(text) >= 0


def test_a_long_text_is_not_repeated() -> None:
    with pytest.raises(MeteringError) as refused:
        convert.from_price_plan(plan_with("9" * 100_000))
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("price", "field"),
    [
        (pb.ApiPrice(api="DetectAuth"), "price_plan.prices[0]"),
        (pb.ApiPrice(per_call=pb.PerCallPrice(unit_price="1")), "price_plan.prices[0].api"),
        (pb.ApiPrice(api="a b", per_call=pb.PerCallPrice(unit_price="1")), "price_plan.prices[0].api"),
        (
            pb.ApiPrice(api="a", volume=pb.TieredPrice(tiers=[pb.Tier(unit_price="1"), pb.Tier(unit_price="x")])),
            "price_plan.prices[0].volume.tiers[1].unit_price",
        ),
        (
            pb.ApiPrice(api="a", graduated=pb.TieredPrice(tiers=[pb.Tier()])),
            "price_plan.prices[0].graduated.tiers[0].unit_price",
        ),
        (
            pb.ApiPrice(api="a", per_call=pb.PerCallPrice(unit_price="1"), uncharged_result_codes=["E", ""]),
            "price_plan.prices[0].uncharged_result_codes[1]",
        ),
    ],
)
def test_a_malformed_field_of_a_price_plan_is_named(price: pb.ApiPrice, field: str) -> None:
    assert refused_field(pb.PricePlan(price_plan_id="p", currency="CNY", prices=[price])) == field


def test_a_price_plan_needs_an_id() -> None:
    assert refused_field(pb.PricePlan(currency="CNY")) == "price_plan.price_plan_id"


@pytest.mark.parametrize("kind", [pb.CallRecord, RecordCallRequest])
def test_the_fields_of_a_call_are_those_that_were_sent(kind: type[pb.CallRecord] | type[RecordCallRequest]) -> None:
    sent = kind(account_id="acme", api="DetectAuth", call_id="7", result_code="E")
    assert convert.call_fields(sent) == ("acme", "DetectAuth", "7", None, 0, "E")
    sent.occurred_at.CopyFrom(Timestamp())
    assert convert.call_fields(sent) == ("acme", "DetectAuth", "7", 0, 0, "E")
    sent.occurred_at.CopyFrom(Timestamp(seconds=-5, nanos=-7))
    assert convert.call_fields(sent) == ("acme", "DetectAuth", "7", -5, -7, "E")


@given(
    st.datetimes(timezones=st.just(UTC)) | st.datetimes(timezones=st.timezones()).filter(lambda at: 1 < at.year < 9999)
)
def test_a_time_is_written_to_the_microsecond(at: datetime) -> None:
    message = convert.timestamp(at)
    written = EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    assert written == at.astimezone(UTC)


SUSPENDED = ServiceStatus(ACCOUNT, ServiceState.SUSPENDED, "2026-10 is overdue", Money(Decimal("9.90"), "CNY"), 5)


@pytest.mark.parametrize(
    ("age_s", "seconds", "nanos"),
    [
        (0.0, 0, 0),
        (0.25, 0, 250_000_000),
        (3.5, 3, 500_000_000),
        (-1.0, 0, 0),  # clocks of event loops do not go back, but then an answer is not from the future either
        (float("inf"), 31_536_000, 0),
        (1e12, 31_536_000, 0),
    ],
)
def test_a_status_says_how_old_it_may_be(age_s: float, seconds: int, nanos: int) -> None:
    message = convert.service_status(SUSPENDED, age_s)
    assert (message.age.seconds, message.age.nanos) == (seconds, nanos)


@pytest.mark.parametrize("state", ServiceState)
def test_a_status_is_told_whole(state: ServiceState) -> None:
    message = convert.service_status(ServiceStatus(ACCOUNT, state, "why", SUSPENDED.outstanding, 2**63 - 1), 0)
    assert pb.ServiceState.Name(message.state) == f"SERVICE_STATE_{state.name}"
    assert (message.account_id, message.reason, message.version) == ("acme", "why", 2**63 - 1)
    assert convert.from_money(message.outstanding, "") == Money(Decimal("9.90"), "CNY")


def test_a_recorded_call_is_told_whole() -> None:
    call = Call(CallKind(ACCOUNT, "DetectAuth", "E", date(2026, 11, 23), NOVEMBER), UUID(CALL_ID).bytes, micros(NOON))
    message = convert.recorded_call(RecordedCall(call, Month(date(2026, 12, 1)), NOON + timedelta(days=30)))
    assert convert.call_fields(message.call)[:3] == ("acme", "DetectAuth", CALL_ID)
    assert message.call.occurred_at.ToDatetime(UTC) == NOON
    assert (message.billing_month, message.occurred_on) == ("2026-12", "2026-11-23")
    assert message.recorded_at.ToDatetime(UTC) == NOON + timedelta(days=30)


def test_a_rejected_call_is_told_whole() -> None:
    rejected = RejectedCall(ACCOUNT, CALL_ID, NOON, "DetectAuth", "E", "ACCOUNT_NOT_FOUND", "why", NOON)
    message = convert.rejected_call(rejected)
    assert (message.call.account_id, message.call.call_id, message.call.result_code) == ("acme", CALL_ID, "E")
    assert (message.reason, message.message) == ("ACCOUNT_NOT_FOUND", "why")
    assert message.call.occurred_at.ToDatetime(UTC) == message.rejected_at.ToDatetime(UTC) == NOON


def usage(state: MonthState, charges: Money | None, *unrated: str) -> MonthlyUsage:
    apis = (ApiUsage("DetectAuth", 5, 4, ((date(2026, 10, 31), 2), (date(2026, 11, 1), 3))),)
    return MonthlyUsage(ACCOUNT, NOVEMBER, state, 5, 4, 2, apis, charges, unrated)


@pytest.mark.parametrize("state", MonthState)
def test_usage_is_told_whole(state: MonthState) -> None:
    message = convert.monthly_usage(usage(state, Money(Decimal("0.05"), "CNY")))
    assert pb.MonthState.Name(message.state) == f"MONTH_STATE_{state.name}"
    assert (message.account_id, message.month) == ("acme", "2026-11")
    assert (message.total_calls, message.charged_calls, message.carried_calls) == (5, 4, 2)
    assert [(day.day, day.calls) for day in message.apis[0].days] == [("2026-10-31", 2), ("2026-11-01", 3)]
    assert (message.apis[0].api, message.apis[0].calls, message.apis[0].charged_calls) == ("DetectAuth", 5, 4)
    assert convert.from_money(message.charges, "") == Money(Decimal("0.05"), "CNY")


def test_usage_without_a_price_has_no_charges() -> None:
    message = convert.monthly_usage(usage(MonthState.OPEN, None, "Unpriced"))
    assert not message.HasField("charges")
    assert list(message.unrated_apis) == ["Unpriced"]
    assert convert.monthly_usage(usage(MonthState.OPEN, Money(Decimal(0), "CNY"))).HasField("charges")


@pytest.mark.parametrize("state", BillState)
def test_a_bill_is_told_whole(state: BillState) -> None:
    parts = (BillLinePart(100, Decimal(0), 1, 100), BillLinePart(3, Decimal("0.012500000"), 1, None))
    line = BillLine("DetectAuth", NOVEMBER, 110, 103, parts, Decimal("0.0375"), Decimal("0.04"), "standard", 3)
    bill = Bill(ACCOUNT, NOVEMBER, "CNY", state, Decimal("0.04"), Decimal("0.01"), NOON, date(2026, 12, 3), (line,))
    message = convert.bill(bill)
    assert pb.BillState.Name(message.state) == f"BILL_STATE_{state.name}"
    amounts = [convert.from_money(each, "").amount for each in (message.total, message.deducted, message.outstanding)]
    assert amounts == [Decimal("0.04"), Decimal("0.01"), Decimal("0.03")]
    assert (message.month, message.due_date) == ("2026-11", "2026-12-03")
    assert message.issued_at.ToDatetime(UTC) == NOON
    (told,) = message.lines
    assert list(told.parts) == [
        pb.BillLinePart(quantity=100, unit_price="0", tier_from=1, tier_up_to=100, exact_amount="0"),
        pb.BillLinePart(quantity=3, unit_price="0.0125", tier_from=1, exact_amount="0.0375"),
    ]
    assert (told.api, told.occurred_month, told.calls, told.charged_calls) == ("DetectAuth", "2026-11", 110, 103)
    assert (told.exact_amount, told.amount.nanos) == ("0.0375", 40_000_000)
    assert (told.price_plan_id, told.price_plan_version) == ("standard", 3)


def test_an_account_is_told_whole() -> None:
    plans = (PricePlanAssignment("first", FROM_THE_BEGINNING), PricePlanAssignment("next", NOVEMBER))
    message = convert.account(Account(ACCOUNT, "CNY", Decimal("-0.50"), NOON, SUSPENDED, plans), 2.0)
    assert [(each.price_plan_id, each.from_month) for each in message.price_plans] == [
        ("first", ""),
        ("next", "2026-11"),
    ]
    assert convert.from_money(message.balance, "") == Money(Decimal("-0.50"), "CNY")
    assert (message.account_id, message.currency) == ("acme", "CNY")
    assert message.activated_at.ToDatetime(UTC) == NOON
    assert message.service_status == convert.service_status(SUSPENDED, 2.0)


@given(st.uuids(), names, st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_a_call_that_was_told_can_be_sent_again_as_it_is(call_id: UUID, api: str, at: datetime) -> None:
    call = Call(CallKind(ACCOUNT, api, "", at.date(), Month(at.date().replace(day=1))), call_id.bytes, micros(at))
    fields = convert.call_fields(convert.recorded_call(RecordedCall(call, call.month, at)).call)
    seconds, fraction = divmod(micros(at), 1_000_000)
    assert fields == (ACCOUNT, api, str(call_id), seconds, fraction * 1000, "")
