"""The one place where RPCs are counted and timed, and where errors become gRPC statuses."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from metering.errors import DatabaseUnavailableError, MeteringError, Reason, TransactionConflictError, invalid_field
from metering.metrics import Metrics
from metering.rpc.acts import ActNotes
from metering.rpc.permissions import PERMISSIONS, Check, Guard
from metering.rpc.status import status_of

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

CHECKED_AGAIN_AFTER_S = 1.0
"""Before a stream goes on, it is looked whether its reader still may have it, unless that is so short a time ago."""

STREAM_RETRY_AFTER_S = 5.0
"""Streams last: another place is free some time later, if at all."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}

log = logging.getLogger(__name__)


class Edge(grpc.GenericRpcHandler):
    """All methods of a server, each wrapped once.

    It takes the place of the server in what generated code calls to register a servicer, and is then registered itself.
    Generated code would register each method for itself, and the event loop then waits for a future of each of them at
    every RPC. What that costs is in docs/adr/0003-methods-are-found-by-name.md.
    """

    def __init__(self, metrics: Metrics, acts: ActNotes, guard: Guard | None) -> None:
        """Take `guard` for who may do what; None: anybody may do everything."""
        self._metrics = metrics
        self._acts = acts
        self._guard = guard
        self._handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take in the methods of a service; generated code calls it."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Do nothing: generated code calls it with the same methods."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Return the handler of a method; for None, gRPC answers UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)

    def _wrap(self, method: str, handler: Handler) -> Handler:
        permission = PERMISSIONS.get(method)
        if permission is None:
            msg = f"{method} has no row in metering.rpc.permissions: say there who may send it"
            raise TypeError(msg)
        if handler.response_streaming and not permission.streams_max:
            msg = f"{method} answers with a stream: say in metering.rpc.permissions how many may be under way"
            raise TypeError(msg)
        check = self._guard.check_of(method, permission) if self._guard else None
        observer = _Observer(self._metrics, method, handler)
        codecs = {
            "request_deserializer": _deserializer(handler.request_deserializer),
            "response_serializer": _serializer(handler.response_serializer),
        }
        if handler.unary_unary:
            behavior: Callable[..., Any] = handler.unary_unary
            if permission.act:
                behavior = self._acts.noted(method, behavior)
            return grpc.unary_unary_rpc_method_handler(_unary(_of_readable(behavior), check, observer), **codecs)
        if permission.act:
            msg = f"{method} is an act and streams: that is not noted yet"
            raise TypeError(msg)
        if handler.unary_stream:
            behavior = handler.unary_stream
            if inspect.iscoroutinefunction(behavior):
                behavior = _generator(behavior)
            streaming = _streaming(_of_readable(behavior), check, observer, permission.streams_max)
            return grpc.unary_stream_rpc_method_handler(streaming, **codecs)
        if handler.stream_stream:
            behavior = _of_readable_stream(handler.stream_stream)
            streaming = _streaming(behavior, check, observer, permission.streams_max)
            return grpc.stream_stream_rpc_method_handler(streaming, **codecs)
        msg = f"{method} streams requests only: there is no such method yet"
        raise TypeError(msg)


class _Unreadable:
    """Stands for a request that is no message of its type. Whoever looks at it raises INVALID_FIELD."""

    def __init__(self, why: str) -> None:
        self.error = invalid_field("request", f"{why}; send a message of the contract")

    def __getattr__(self, _name: str) -> NoReturn:
        raise self.error


def _deserializer(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return what reads requests; gRPC itself would answer those it cannot read with UNKNOWN, and log a traceback."""
    if deserialize is None:
        raise TypeError("a method without a deserializer")

    def read(data: bytes) -> Any:  # noqa: ANN401 - any message
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Unreadable(str(error))

    return read


def _of_readable(behavior: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is not asked with a request that cannot be read."""

    def ask(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        if type(request) is _Unreadable:
            raise request.error
        return behavior(request, context)

    return ask


def _of_readable_stream(behavior: Callable[..., Any]) -> Callable[..., Any]:
    async def readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if type(request) is _Unreadable:
                raise request.error
            yield request

    return lambda requests, context: behavior(readable(requests), context)


def _serializer(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Return what serialises responses, and leaves alone those that a servicer has serialised itself."""
    if serialize is None:
        raise TypeError("a method without a serializer")
    return lambda response: response if type(response) is bytes else serialize(response)


class _Observer:
    """Counts and times the RPCs of one method, and ends those that fail."""

    def __init__(self, metrics: Metrics, method: str, handler: Handler) -> None:
        _, service, name = method.split("/")
        kind = (
            "bidi_stream" if handler.request_streaming else "server_stream" if handler.response_streaming else "unary"
        )
        labels = (kind, service, name)
        self._method = method
        self._metrics = metrics
        self._labels = labels
        self.started = metrics.rpc_started.labels(*labels)
        self.seconds = metrics.rpc_seconds.labels(*labels)
        self.succeeded = metrics.rpc_handled.labels(*labels, "OK")

    def count(self, code: grpc.StatusCode) -> None:
        self._metrics.rpc_handled.labels(*self._labels, code.name).inc()

    async def fail(self, context: Context, error: Exception) -> NoReturn:
        """End an RPC with the status for an error."""
        if isinstance(error, aio.AbortError):  # by health, with a status of its own
            code: Any = context.code()  # a number or not, as grpcio's release has it
            self.count(_CODES.get(code, code))
            raise error
        if isinstance(error, NotImplementedError):  # health knows a method that the library does not have
            self.count(grpc.StatusCode.UNIMPLEMENTED)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{self._method} is not served")
        if isinstance(error, TransactionConflictError):
            error = DatabaseUnavailableError("other transactions were in the way again and again; send it again")
        elif not isinstance(error, MeteringError):
            log.error("%s failed", self._method, exc_info=error)
            error = MeteringError(Reason.INTERNAL, "a defect of the service; its log has the details")
        code, message, trailers = status_of(error)
        self.count(code)
        await context.abort(code, message, trailers)


def _unary(behavior: Callable[..., Any], check: Check | None, observer: _Observer) -> Callable[..., Awaitable[Any]]:
    started, seconds, succeeded = observer.started.inc, observer.seconds.observe, observer.succeeded.inc

    async def handle(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        begin = perf_counter()
        started()
        try:
            if check is not None:
                check(request, context)
            response = await behavior(request, context)
        except asyncio.CancelledError:
            observer.count(grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a status
            await observer.fail(context, error)
        else:
            succeeded()
            return response
        finally:
            seconds(perf_counter() - begin)

    return handle


def _generator(behavior: Callable[..., Awaitable[None]]) -> Callable[..., AsyncIterator[Any]]:
    """Make a generator of a method that writes its responses through the context, as that of health does."""

    async def generate(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
        await behavior(request, context)
        nothing: tuple[Any, ...] = ()
        for response in nothing:
            yield response

    return generate


def check_room(under_way: int, streams_max: int) -> None:
    """Raise TOO_MANY_STREAMS if more than so many streams are under way."""
    if under_way > streams_max:
        msg = f"{streams_max} streams of this method are under way, as many as this server has; try again"
        raise MeteringError(Reason.TOO_MANY_STREAMS, msg, retry_after_s=STREAM_RETRY_AFTER_S)


def _streaming(
    behavior: Callable[..., Any], check: Check | None, observer: _Observer, streams_max: int
) -> Callable[..., AsyncIterator[Any]]:
    under_way = 0

    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
        nonlocal under_way
        observer.started.inc()
        under_way += 1
        try:
            if check is not None:
                check(request, context)
            check_room(under_way, streams_max)
            checked_at = monotonic()
            async for response in behavior(request, context):
                if check is not None and monotonic() - checked_at > CHECKED_AGAIN_AFTER_S:
                    check(request, context)
                    checked_at = monotonic()
                yield response
        except asyncio.CancelledError:
            observer.count(grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a status
            await observer.fail(context, error)
        else:
            observer.succeeded.inc()
        finally:
            under_way -= 1

    return handle
