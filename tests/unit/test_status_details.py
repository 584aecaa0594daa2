"""Our errors as gRPC statuses: every reason has its code, and the details that the contract promises."""

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from faceid.metering.v1.error_reason_pb2 import ErrorReason
from metering.errors import (
    DatabaseUnavailableError,
    FieldViolation,
    MeteringError,
    Reason,
    account_not_found,
    invalid_field,
)
from metering.rpc.status import CODES, ERROR_DOMAIN, status_of

PREFIX = "ERROR_REASON_"


def details_of(error: MeteringError) -> tuple[Status, list[Message]]:
    """Return the status in the trailing metadata, and its details unpacked."""
    code, message, trailers = status_of(error)
    ((key, serialized),) = trailers
    assert key == "grpc-status-details-bin"
    status = Status.FromString(serialized)
    # A client that reads only the one or only the other must see the same.
    assert (status.code, status.message) == (code.value[0], message)
    kinds = {kind.DESCRIPTOR.full_name: kind for kind in (ErrorInfo, BadRequest, RetryInfo)}
    unpacked = []
    for detail in status.details:
        found = kinds[detail.TypeName()]()
        assert detail.Unpack(found)
        unpacked.append(found)
    return status, unpacked


def test_every_reason_stands_in_the_contract_and_nothing_else_does() -> None:
    in_contract = {name.removeprefix(PREFIX) for name in ErrorReason.keys()}  # noqa: SIM118 - no mapping, though like one
    assert in_contract == {reason.value for reason in Reason} | {"UNSPECIFIED"}


def test_every_reason_is_named_by_its_value() -> None:
    assert all(reason.name == reason.value for reason in Reason)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_code_and_exactly_one_error_info(reason: Reason) -> None:
    code, message, _ = status_of(MeteringError(reason, "what, and what to do"))
    assert code is CODES[reason]
    assert code not in {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}
    assert message == "what, and what to do"
    _, details = details_of(MeteringError(reason, message))
    assert details == [ErrorInfo(reason=reason.value, domain=ERROR_DOMAIN)]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.INVALID_FIELD, grpc.StatusCode.INVALID_ARGUMENT),
        (Reason.ACCOUNT_NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (Reason.MONTH_NOT_ENDED, grpc.StatusCode.FAILED_PRECONDITION),
        (Reason.QUEUE_FULL, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Reason.DATABASE_UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
        (Reason.SHUTTING_DOWN, grpc.StatusCode.UNAVAILABLE),
        (Reason.PAYMENT_ID_REUSED, grpc.StatusCode.ALREADY_EXISTS),
    ],
)
def test_codes_are_those_of_the_contract(reason: Reason, code: grpc.StatusCode) -> None:
    assert CODES[reason] is code


def test_bad_input_names_its_fields() -> None:
    _, (info, bad_request) = details_of(invalid_field("month", "'x' is not a month; write it like 2026-11"))
    assert info == ErrorInfo(reason="INVALID_FIELD", domain=ERROR_DOMAIN)
    violation = BadRequest.FieldViolation(field="month", description="'x' is not a month; write it like 2026-11")
    assert bad_request == BadRequest(field_violations=[violation])


def test_several_malformed_fields_are_all_named() -> None:
    violations = (FieldViolation("a", "is missing"), FieldViolation("b[0].c", "is malformed"))
    _, (_, bad_request) = details_of(MeteringError(Reason.INVALID_FIELD, "two", violations=violations))
    assert isinstance(bad_request, BadRequest)
    assert [(each.field, each.description) for each in bad_request.field_violations] == [
        ("a", "is missing"),
        ("b[0].c", "is malformed"),
    ]


@pytest.mark.parametrize("retry_after_s", [0.0, 0.1, 1.0, 1.0004, 61.5])
def test_where_a_retry_helps_it_is_said_when(retry_after_s: float) -> None:
    _, (_, retry_info) = details_of(MeteringError(Reason.QUEUE_FULL, "full", retry_after_s=retry_after_s))
    assert isinstance(retry_info, RetryInfo)
    assert retry_info.retry_delay.ToMilliseconds() == round(retry_after_s * 1000)


def test_an_absent_database_is_worth_a_retry() -> None:
    _, details = details_of(DatabaseUnavailableError("away"))
    assert [type(detail) for detail in details] == [ErrorInfo, RetryInfo]


def test_what_no_retry_can_help_says_nothing_of_retries() -> None:
    _, details = details_of(account_not_found("nobody"))
    assert [type(detail) for detail in details] == [ErrorInfo]


@given(st.text(), st.lists(st.builds(FieldViolation, st.text(), st.text()), max_size=3).map(tuple))
def test_any_text_that_a_caller_can_send_comes_back_in_the_status(
    message: str, violations: tuple[FieldViolation, ...]
) -> None:
    error = MeteringError(Reason.INVALID_FIELD, message, violations=violations, retry_after_s=1)
    status, details = details_of(error)
    assert status.message == message
    assert len(details) == 2 + bool(violations)
