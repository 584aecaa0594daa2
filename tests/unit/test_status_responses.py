"""Responses that are put together from bytes are what the messages would have been."""

from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from faceid.metering.v1 import metering_service_pb2 as pb
from metering.model import AccountId, Money, Month, Receipt, ServiceState, ServiceStatus
from metering.rpc import convert
from metering.rpc.responses import AGE_STEP_S, StatusResponses

NOVEMBER, DECEMBER = Month(date(2026, 11, 1)), Month(date(2026, 12, 1))

statuses = st.builds(
    ServiceStatus,
    account_id=st.text("ab", min_size=1, max_size=64).map(AccountId),
    state=st.sampled_from(ServiceState),
    reason=st.text(max_size=400),
    outstanding=st.builds(Money, st.decimals("0", "999999999", places=2), st.sampled_from(["CNY", "JPY"])),
    version=st.integers(1, 2**63 - 1),
)
receipts = st.builds(Receipt, st.booleans(), st.sampled_from([NOVEMBER, DECEMBER]))
ages = st.floats(0, 40_000_000)


@given(statuses, receipts, ages)
def test_a_recorded_calls_response_is_the_message_serialised(
    status: ServiceStatus, receipt: Receipt, age_s: float
) -> None:
    message = pb.RecordCallResponse(
        duplicate=receipt.duplicate,
        billing_month=f"{receipt.billing_month:%Y-%m}",
        service_status=convert.service_status(status, age_s + AGE_STEP_S),
    )
    assert StatusResponses(lambda: age_s).recorded(receipt, status) == message.SerializeToString()


@given(st.lists(statuses, min_size=1, max_size=10), ages)
def test_a_status_response_is_the_message_serialised_whatever_was_asked_before(
    asked: list[ServiceStatus], age_s: float
) -> None:
    responses = StatusResponses(lambda: age_s)
    for status in asked:
        message = pb.CheckServiceStatusResponse(service_status=convert.service_status(status, age_s + AGE_STEP_S))
        assert responses.checked(status) == message.SerializeToString()


def test_an_age_grows_within_milliseconds() -> None:
    age_s = 1.0
    responses = StatusResponses(lambda: age_s)
    status = ServiceStatus(AccountId("a"), ServiceState.ACTIVE, "", Money(Decimal(0), "CNY"), 1)
    told = responses.checked(status)
    age_s = 2.0
    while responses.checked(status) == told:  # the next step of the age is at most AGE_STEP_S away
        pass
    message = pb.CheckServiceStatusResponse.FromString(responses.checked(status))
    assert message.service_status.age.ToTimedelta().total_seconds() >= age_s
