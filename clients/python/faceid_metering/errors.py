"""Errors of RPCs, with what the service says about them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

_DOMAIN = "metering.faceid"


class MeteringError(Exception):
    """A request failed; its `__cause__` is what gRPC raised."""

    code: grpc.StatusCode
    """The canonical code. CANCELLED: this client was closed; CANCELLED is no other error of this service."""

    message: str
    """What was wrong, in words."""

    reason: str
    """The name of an `ErrorReason` without its prefix, such as `ACCOUNT_NOT_FOUND`; empty when the error isn't the
    service's own, as when it cannot be reached."""

    fields: tuple[tuple[str, str], ...]
    """Bad fields of the request: the name of each, and what is wrong with it."""

    retry_after_s: float | None
    """After how many seconds sending it again may help, if the service said so."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        fields: tuple[tuple[str, str], ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message, reason, fields, retry_after_s)
        self.code = code
        self.message = message
        self.reason = reason
        self.fields = fields
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    def is_retryable(self) -> bool:
        """Return whether sending the same request again may help; a token that has expired is replaced meanwhile.

        RESOURCE_EXHAUSTED is what gRPC itself says of a message over 4 MiB, too, and that is not going to shrink.
        """
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_after_s is not None or self.reason == "QUEUE_FULL"
        return self.reason == "TOKEN_EXPIRED" or self.code in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise MeteringError in place of gRPC's errors."""
    try:
        yield
    except aio.AioRpcError as error:
        raise _decode(error) from error
    except aio.UsageError as error:  # a new RPC on a closed channel
        raise MeteringError(grpc.StatusCode.CANCELLED, "the client is closed") from error
    except asyncio.CancelledError as error:
        # Closing the channel cancels the RPCs under way, which looks like a cancelled task to those that wait for them.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise MeteringError(grpc.StatusCode.CANCELLED, "the client was closed") from error


def _decode(error: aio.AioRpcError) -> MeteringError:
    reason = ""
    fields: tuple[tuple[str, str], ...] = ()
    retry_after_s = None
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in _details(error):
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason = info.reason
        elif detail.Unpack(bad_request):
            fields = tuple((violation.field, violation.description) for violation in bad_request.field_violations)
        elif detail.Unpack(retry):
            retry_after_s = max(retry.retry_delay.ToNanoseconds() / 1e9, 0.0)
    # What a stopping server has received but not looked at, gRPC cancels. It was not this client that did.
    code = grpc.StatusCode.UNAVAILABLE if error.code() is grpc.StatusCode.CANCELLED else error.code()
    return MeteringError(code, error.details() or "", reason, fields, retry_after_s)


def _details(error: aio.AioRpcError) -> list[AnyMessage]:
    trailers = error.trailing_metadata()
    packed = trailers.get("grpc-status-details-bin") if trailers else None
    if not isinstance(packed, bytes):
        return []
    try:
        return list(Status.FromString(packed).details)
    except DecodeError:  # what stands in the way may garble the details; the code is still right
        return []
