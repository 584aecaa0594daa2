"""Between messages and the model."""

import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2

from faceid.metering.v1 import resources_pb2 as pb
from faceid.metering.v1.account_service_pb2 import GetMonthResponse, PreviewRunMonthResponse
from faceid.metering.v1.metering_service_pb2 import BatchRecordCallsRequest, RecordCallRequest
from metering.billing.months import format_month
from metering.billing.run_preview import AccountPreview
from metering.errors import invalid_field
from metering.model import (
    FROM_THE_BEGINNING,
    Account,
    ApiPrice,
    Bill,
    BillLine,
    Money,
    MonthlyRunRecord,
    MonthlyUsage,
    MonthProgress,
    PriceModel,
    PricePlan,
    RecordedCall,
    RejectedCall,
    ServiceStatus,
    Tier,
    to_micros,
)
from metering.recording.senders import NUMBERS_MAX, SenderNews
from metering.recording.validation import CallColumns, CallFields, check_name, check_uuid

_NANOS = Decimal(1_000_000_000)
_CALL_FIELDS = attrgetter("account_id", "api", "call_id", "occurred_at.seconds", "occurred_at.nanos", "result_code")
_DECIMAL = re.compile(r"\d{1,18}(\.\d{1,18})?", re.ASCII)


def call_fields(message: pb.CallRecord | RecordCallRequest) -> CallFields:
    """Return the fields of a CallRecord or a RecordCallRequest."""
    fields: CallFields = _CALL_FIELDS(message)
    # A time that was left out reads as 1970.
    return fields if fields[3] or message.HasField("occurred_at") else (*fields[:3], None, 0, fields[5])


def call_columns(messages: Iterable[pb.CallRecord]) -> CallColumns:
    """Return the fields of messages, field by field, which takes less time than call by call."""
    messages = list(messages)
    times = [message.occurred_at for message in messages]
    seconds = [time.seconds for time in times]
    if 0 in seconds:
        return CallColumns.of([call_fields(message) for message in messages])
    return CallColumns(
        [message.account_id for message in messages],
        [message.api for message in messages],
        [message.call_id for message in messages],
        seconds,
        [time.nanos for time in times],
        [message.result_code for message in messages],
    )


def timestamp(time: datetime) -> Timestamp:
    """Return a message for an aware time."""
    return timestamp_of_micros(to_micros(time))


def timestamp_of_micros(micros: int) -> Timestamp:
    """Return a message for a time in microseconds since 1970 (UTC)."""
    # Timestamp's own ways to it take twice as long as all the rest of a listed call.
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def money(amount: Decimal, currency: str) -> money_pb2.Money:
    """Return a message for an amount of at most 9 decimals."""
    units = int(amount)
    return money_pb2.Money(currency_code=currency, units=units, nanos=int((amount - units) * _NANOS))


def from_money(message: money_pb2.Money, field: str) -> Money:
    """Return the amount in a message; raises MeteringError (INVALID_FIELD) for one that is malformed."""
    units, nanos = message.units, message.nanos
    if abs(nanos) >= _NANOS or units * nanos < 0:
        raise invalid_field(f"{field}.nanos", f"{nanos} is out of range or differs in sign from units")
    return Money(units + nanos / _NANOS, message.currency_code)


def service_status(status: ServiceStatus, age_s: float | None = None) -> pb.ServiceStatus:
    """Return a message for a status that may be `age_s` seconds old; None: without an age."""
    return pb.ServiceStatus(
        account_id=status.account_id,
        state=f"SERVICE_STATE_{status.state}",
        reason=status.reason,
        outstanding=money(status.outstanding.amount, status.outstanding.currency),
        version=status.version,
        age=None if age_s is None else duration(age_s),
    )


def duration(age_s: float) -> Duration:
    """Return a message for an age."""
    # A server that never heard the feed says so with the longest age there is room for, about a year.
    nanos = int(min(max(age_s, 0.0), 31_536_000.0) * 1e9)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def sender_news(request: BatchRecordCallsRequest) -> SenderNews | None:
    """Return what a sender says of itself; raises MeteringError (INVALID_FIELD) if it is malformed."""
    if not request.HasField("sender"):
        return None
    sender, calls = request.sender, len(request.calls)
    sender_id = UUID(check_uuid(sender.sender_id, "sender.sender_id"))
    if calls and not 1 <= sender.first_number <= NUMBERS_MAX - calls:
        raise invalid_field("sender.first_number", "out of range; number the calls from 1 on")
    if not 0 <= sender.numbers <= NUMBERS_MAX:
        raise invalid_field("sender.numbers", "out of range; send how many calls were taken so far")
    return SenderNews(sender_id, sender.first_number, calls, sender.numbers, sender.closing)


def recorded_call(recorded: RecordedCall) -> pb.RecordedCall:
    """Return a message for a recorded call."""
    call = recorded.call
    return pb.RecordedCall(
        call=pb.CallRecord(
            account_id=call.account_id,
            api=call.api,
            call_id=call.call_id_text,
            occurred_at=timestamp_of_micros(call.occurred_us),
            result_code=call.result_code,
        ),
        billing_month=format_month(recorded.billing_month),
        occurred_on=call.occurred_on.isoformat(),
        recorded_at=timestamp(recorded.recorded_at),
    )


def rejected_call(rejected: RejectedCall) -> pb.RejectedCall:
    """Return a message for a rejected call."""
    return pb.RejectedCall(
        call=pb.CallRecord(
            account_id=rejected.account_id,
            api=rejected.api,
            call_id=rejected.call_id,
            occurred_at=timestamp(rejected.occurred_at),
            result_code=rejected.result_code,
        ),
        reason=rejected.reason,
        message=rejected.message,
        rejected_at=timestamp(rejected.rejected_at),
        state="REJECTED_CALL_STATE_RECORDED" if rejected.recorded_at else "REJECTED_CALL_STATE_REJECTED",
        retried_at=timestamp(rejected.retried_at) if rejected.retried_at else None,
        billing_month=format_month(rejected.billing_month) if rejected.billing_month else "",
    )


def monthly_usage(usage: MonthlyUsage) -> pb.MonthlyUsage:
    """Return a message for a month's usage."""
    message = pb.MonthlyUsage(
        account_id=usage.account_id,
        month=format_month(usage.month),
        state=f"MONTH_STATE_{usage.state}",
        total_calls=usage.total_calls,
        charged_calls=usage.charged_calls,
        carried_calls=usage.carried_calls,
        apis=[
            pb.ApiUsage(
                api=api.api,
                calls=api.calls,
                charged_calls=api.charged_calls,
                days=[pb.DailyUsage(day=day.isoformat(), calls=calls) for day, calls in api.days],
            )
            for api in usage.apis
        ],
        unrated_apis=usage.unrated_apis,
    )
    if usage.charges is not None:
        message.charges.CopyFrom(money(usage.charges.amount, usage.charges.currency))
    return message


def bill(found: Bill) -> pb.Bill:
    """Return a message for a bill."""
    return pb.Bill(
        account_id=found.account_id,
        month=format_month(found.month),
        state=f"BILL_STATE_{found.state}",
        total=money(found.total, found.currency),
        deducted=money(found.deducted, found.currency),
        outstanding=money(found.outstanding, found.currency),
        issued_at=timestamp(found.issued_at),
        due_date=found.due_date.isoformat(),
        lines=[_bill_line(line, found.currency) for line in found.lines],
        calls_digest=found.calls_digest.hex() if found.calls_digest else "",
    )


def _bill_line(line: BillLine, currency: str) -> pb.BillLine:
    return pb.BillLine(
        api=line.api,
        occurred_month=format_month(line.occurred_month),
        calls=line.calls,
        charged_calls=line.charged_calls,
        parts=[
            pb.BillLinePart(
                quantity=part.quantity,
                unit_price=_decimal_text(part.unit_price),
                tier_from=part.tier_from,
                tier_up_to=part.tier_up_to or 0,
                exact_amount=_decimal_text(part.exact_amount),
            )
            for part in line.parts
        ],
        exact_amount=_decimal_text(line.exact_amount),
        amount=money(line.amount, currency),
        price_plan_id=line.price_plan_id,
        price_plan_version=line.price_plan_version,
    )


def account(found: Account, age_s: float = 0.0) -> pb.Account:
    """Return a message for an account."""
    return pb.Account(
        account_id=found.account_id,
        currency=found.currency,
        balance=money(found.balance, found.currency),
        activated_at=timestamp(found.activated_at),
        service_status=service_status(found.status, age_s),
        price_plans=[
            pb.PricePlanAssignment(
                price_plan_id=each.price_plan_id,
                from_month="" if each.from_month == FROM_THE_BEGINNING else format_month(each.from_month),
            )
            for each in found.price_plans
        ],
    )


def monthly_run(run: MonthlyRunRecord) -> pb.MonthlyRun:
    """Return a message for what a monthly run did."""
    return pb.MonthlyRun(
        run_id=run.run_id,
        run_on=run.run_on.isoformat(),
        replica=run.replica,
        started_at=timestamp(run.started_at),
        finished_at=timestamp(run.finished_at) if run.finished_at else None,
        months=map(format_month, run.months),
        bills_issued=run.bills_issued,
        issued=[money(amount, currency) for currency, amount in sorted(run.issued.items())],
        bills_paid=run.bills_paid,
        deducted=[money(amount, currency) for currency, amount in sorted(run.deducted.items())],
        accounts_suspended=run.accounts_suspended,
        accounts_unrated=run.accounts_unrated,
        failures=run.failures,
        failed=[
            pb.MonthlyRunFailure(month=format_month(each.month), account_id=each.account_id, message=each.message)
            for each in run.failed
        ],
    )


def month_progress(progress: MonthProgress) -> GetMonthResponse:
    """Return a message for what has become of a month."""
    return GetMonthResponse(
        state="MONTH_STATE_CLOSED" if progress.closed_at else "MONTH_STATE_OPEN",
        closed_at=timestamp(progress.closed_at) if progress.closed_at else None,
        billed_at=timestamp(progress.billed_at) if progress.billed_at else None,
        bills_issued=progress.bills_issued,
        accounts=progress.accounts,
        accounts_looked_at=progress.accounts_looked_at,
    )


def account_preview(preview: AccountPreview) -> PreviewRunMonthResponse:
    """Return a message for what a monthly run would do for an account."""
    return PreviewRunMonthResponse(
        account_id=preview.account_id,
        bills=map(bill, preview.issued),
        unrated_months=map(format_month, preview.unrated_months),
        deducted=money(preview.deducted.amount, preview.deducted.currency),
        outstanding=money(preview.outstanding.amount, preview.outstanding.currency),
        suspends=preview.suspends,
    )


def price_plan(plan: PricePlan) -> pb.PricePlan:
    """Return a message for a price plan."""
    return pb.PricePlan(
        price_plan_id=plan.price_plan_id,
        version=plan.version,
        currency=plan.currency,
        prices=[_api_price(price) for price in plan.prices],
    )


def _api_price(price: ApiPrice) -> pb.ApiPrice:
    message = pb.ApiPrice(
        api=price.api, free_calls=price.free_calls, uncharged_result_codes=sorted(price.uncharged_result_codes)
    )
    if price.model is PriceModel.PER_CALL:
        message.per_call.unit_price = _decimal_text(price.tiers[0].unit_price)
        return message
    tiered = message.graduated if price.model is PriceModel.GRADUATED else message.volume
    tiered.tiers.extend(
        pb.Tier(up_to=tier.up_to or 0, unit_price=_decimal_text(tier.unit_price)) for tier in price.tiers
    )
    return message


def from_price_plan(message: pb.PricePlan) -> PricePlan:
    """Return the price plan in a message; raises MeteringError (INVALID_FIELD) for one that is malformed."""
    return PricePlan(
        price_plan_id=check_name(message.price_plan_id, "price_plan.price_plan_id"),
        version=0,
        currency=message.currency,
        prices=tuple(
            _from_api_price(price, f"price_plan.prices[{index}]") for index, price in enumerate(message.prices)
        ),
    )


def _from_api_price(message: pb.ApiPrice, field: str) -> ApiPrice:
    model = message.WhichOneof("model")
    if model is None:
        raise invalid_field(field, "has no price; set per_call, graduated or volume")
    if model == "per_call":
        tiers: tuple[Tier, ...] = (Tier(None, _decimal(message.per_call.unit_price, f"{field}.per_call.unit_price")),)
    else:
        tiered: pb.TieredPrice = getattr(message, model)
        tiers = tuple(
            Tier(tier.up_to or None, _decimal(tier.unit_price, f"{field}.{model}.tiers[{index}].unit_price"))
            for index, tier in enumerate(tiered.tiers)
        )
    return ApiPrice(
        api=check_name(message.api, f"{field}.api"),
        model=PriceModel(model.upper()),
        tiers=tiers,
        free_calls=message.free_calls,
        uncharged_result_codes=frozenset(_names(message.uncharged_result_codes, f"{field}.uncharged_result_codes")),
    )


def _names(names: Iterable[str], field: str) -> Iterable[str]:
    return (check_name(name, f"{field}[{index}]") for index, name in enumerate(names))


def _decimal(text: str, field: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise invalid_field(field, f"{text[:40]!r} is not a price; write a decimal such as 0.0125")
    return Decimal(text)


def _decimal_text(number: Decimal) -> str:
    """Return a decimal without exponent and without zeros that say nothing: `0.0125`, `0`, `100`."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
