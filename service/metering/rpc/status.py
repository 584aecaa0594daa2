"""Our errors as gRPC statuses, with details as the contract describes them."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from metering.errors import MeteringError, Reason

ERROR_DOMAIN = "metering.faceid"

CODES = {
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.OCCURRED_AT_OUT_OF_RANGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_MANY_RECORDS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNRECORDABLE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.ACCOUNT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.PRICE_PLAN_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.BILL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ACCOUNT_ALREADY_ACTIVATED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.PAYMENT_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.MONTH_NOT_ENDED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MONTH_ALREADY_BILLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CURRENCY_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CALLS_DROPPED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MONTHLY_RUN_UNDER_WAY: grpc.StatusCode.ABORTED,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_STREAMS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DATABASE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
}


def status_of(error: MeteringError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return the code, the message and the trailing metadata that an RPC ends with for an error."""
    code = CODES[error.reason]
    status = Status(code=code.value[0], message=error.message)
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN))
    if error.violations:
        violations = [
            BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        status.details.add().Pack(BadRequest(field_violations=violations))
    if error.retry_after_s is not None:
        delay = Duration(nanos=0)
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return code, error.message, (("grpc-status-details-bin", status.SerializeToString()),)
