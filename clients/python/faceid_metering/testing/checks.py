"""What a fake service takes, and what it refuses."""

import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from faceid.metering.v1.metering_service_pb2 import RecordCallRequest
from faceid.metering.v1.resources_pb2 import ApiPrice, CallRecord, PricePlan, TieredPrice
from faceid_metering.testing.refusal import RefusalError, invalid
from faceid_metering.uuid7 import uuid7_time

MINOR_UNITS = {"CNY": 2, "EUR": 2, "GBP": 2, "HKD": 2, "JPY": 0, "KRW": 0, "KWD": 3, "SGD": 2, "THB": 2, "USD": 2}
"""The currencies that a fake service knows, with their decimals."""

_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,64}")
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_PRICE = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_PRICE_MAX = Decimal(10) ** 6
_PRICE_DECIMALS_MAX = 9
_AHEAD_MAX = timedelta(minutes=5)
_BACK_MAX = timedelta(days=62)
_NANOS_END = 10**9
_SECONDS = range(-62_104_060_800, 253_370_764_800)  # the years 2 to 9998


def name(text: str, field: str) -> str:
    """Return an identifier that is well formed."""
    if not _NAME.fullmatch(text):
        raise invalid(field, f"{text[:64]!r} is malformed; send 1 to 64 characters out of A-Z a-z 0-9 . _ : @ / -")
    return text


def month(text: str, field: str = "month") -> str:
    """Return a month that is well formed."""
    if not _MONTH.fullmatch(text) or text[:4] in {"0000", "0001", "9999"}:
        raise invalid(field, f"{text[:20]!r} is not a month; write it like 2026-11")
    return text


def next_month(text: str) -> str:
    """Return the month after."""
    return (date.fromisoformat(f"{text}-01") + timedelta(days=31)).isoformat()[:7]


def currency(code: str, field: str) -> str:
    """Return a currency that is known."""
    if code not in MINOR_UNITS:
        raise invalid(field, f"{code[:8]!r} is not an ISO 4217 currency code that the fake service knows")
    return code


def call(sent: CallRecord | RecordCallRequest) -> CallRecord:
    """Return a call as it is kept, with a canonical id and time."""
    name(sent.account_id, "account_id")
    name(sent.api, "api")
    if sent.result_code:
        name(sent.result_code, "result_code")
    if not _UUID.fullmatch(sent.call_id):
        raise invalid("call_id", f"{sent.call_id[:64]!r} is not a UUID; send the RequestId of the call")
    call_id = UUID(sent.call_id)
    occurred_at = Timestamp()
    if sent.HasField("occurred_at"):
        seconds, nanos = sent.occurred_at.seconds, sent.occurred_at.nanos
        if seconds not in _SECONDS or not 0 <= nanos < _NANOS_END:
            raise invalid("occurred_at", "not a valid timestamp")
        occurred_at = Timestamp(seconds=seconds, nanos=nanos // 1000 * 1000)
    elif (time := uuid7_time(call_id)) is not None:
        occurred_at.FromDatetime(time)
    else:
        raise invalid("occurred_at", "is missing; set it once, when the call is made, or send a UUIDv7 as call_id")
    return CallRecord(
        account_id=sent.account_id,
        api=sent.api,
        call_id=str(call_id),
        occurred_at=occurred_at,
        result_code=sent.result_code,
    )


def occurred_in_range(occurred_at: datetime, now: datetime) -> None:
    """Refuse a call that occurred too far ahead or back."""
    if not now - _BACK_MAX <= occurred_at <= now + _AHEAD_MAX:
        message = f"{occurred_at.isoformat()} is more than 5 minutes ahead or more than 62 days back"
        raise RefusalError("OCCURRED_AT_OUT_OF_RANGE", message, field="occurred_at")


def price_plan(sent: PricePlan) -> PricePlan:
    """Return a price plan as it is kept, with canonical prices, as version 0."""
    plan = PricePlan(price_plan_id=name(sent.price_plan_id, "price_plan.price_plan_id"), prices=sent.prices)
    for index, price in enumerate(plan.prices):
        _check_price(price, f"price_plan.prices[{index}]")
    plan.currency = currency(sent.currency, "price_plan.currency")
    if not plan.prices:
        raise invalid("price_plan.prices", "empty; give the price of at least one api")
    apis = [price.api for price in plan.prices]
    for index, api in enumerate(apis):
        if api in apis[:index]:
            raise invalid(f"price_plan.prices[{index}].api", f"{api} has a price already")
    return plan


def _check_price(price: ApiPrice, field: str) -> None:
    name(price.api, f"{field}.api")
    codes = sorted(set(price.uncharged_result_codes))
    for index, code in enumerate(codes):
        name(code, f"{field}.uncharged_result_codes[{index}]")
    price.uncharged_result_codes[:] = codes
    if price.free_calls < 0:
        raise invalid(f"{field}.free_calls", f"{price.free_calls} is less than 0")
    model = price.WhichOneof("model")
    if model is None:
        raise invalid(field, "has no price; set per_call, graduated or volume")
    if model == "per_call":
        price.per_call.unit_price = _unit_price(price.per_call.unit_price, f"{field}.per_call.unit_price")
    else:
        _check_tiers(price.graduated if model == "graduated" else price.volume, f"{field}.{model}.tiers")


def _check_tiers(tiered: TieredPrice, field: str) -> None:
    if not tiered.tiers:
        raise invalid(field, "empty; give at least one tier")
    before = 0
    for index, tier in enumerate(tiered.tiers):
        is_last = index == len(tiered.tiers) - 1
        if is_last != (tier.up_to == 0) or (not is_last and tier.up_to <= before):
            raise invalid(f"{field}[{index}].up_to", "must be more than the one before, and 0 in the last tier only")
        before = tier.up_to
        tier.unit_price = _unit_price(tier.unit_price, f"{field}[{index}].unit_price")


def _unit_price(text: str, field: str) -> str:
    if not _PRICE.fullmatch(text) or Decimal(text) > _PRICE_MAX:
        raise invalid(field, f"{text[:40]!r} is not a price; write a decimal such as 0.0125")
    if len(text.partition(".")[2]) > _PRICE_DECIMALS_MAX:
        raise invalid(field, f"{text} has more than {_PRICE_DECIMALS_MAX} decimals")
    return decimal_text(Decimal(text))


def decimal_text(number: Decimal) -> str:
    """Return a decimal without exponent and without zeros that say nothing."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
