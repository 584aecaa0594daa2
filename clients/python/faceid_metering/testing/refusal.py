"""Errors of a fake service, as error_reason.proto describes them."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

_CODES = {
    "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
    "OCCURRED_AT_OUT_OF_RANGE": grpc.StatusCode.INVALID_ARGUMENT,
    "TOO_MANY_RECORDS": grpc.StatusCode.INVALID_ARGUMENT,
    "ACCOUNT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "PRICE_PLAN_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "BILL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ACCOUNT_ALREADY_ACTIVATED": grpc.StatusCode.ALREADY_EXISTS,
    "PAYMENT_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "MONTH_NOT_ENDED": grpc.StatusCode.FAILED_PRECONDITION,
    "MONTH_ALREADY_BILLED": grpc.StatusCode.FAILED_PRECONDITION,
    "CURRENCY_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "CALLS_DROPPED": grpc.StatusCode.FAILED_PRECONDITION,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DATABASE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
}


class RefusalError(Exception):
    """A request is refused."""

    def __init__(self, reason: str, message: str, *, field: str = "", retry_after_s: float | None = None) -> None:
        """Take the reason without its prefix, the malformed field if there is one, and when to try again."""
        super().__init__(f"{field}: {message}" if field else message)
        self.reason = reason
        self.code = _CODES[reason]
        self.field = field
        self._description = message
        self._retry_after_s = retry_after_s

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Return the trailing metadata that an RPC ends with."""
        status = Status(code=self.code.value[0], message=str(self))
        status.details.add().Pack(ErrorInfo(reason=self.reason, domain="metering.faceid"))
        if self.field:
            violation = BadRequest.FieldViolation(field=self.field, description=self._description)
            status.details.add().Pack(BadRequest(field_violations=[violation]))
        if self._retry_after_s is not None:
            delay = Duration()
            delay.FromMilliseconds(round(self._retry_after_s * 1000))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        return (("grpc-status-details-bin", status.SerializeToString()),)


def invalid(field: str, message: str) -> RefusalError:
    """Return the refusal of a malformed field."""
    return RefusalError("INVALID_FIELD", message, field=field)
