"""Meters a gRPC server, of asyncio or of threads.

    server = grpc.aio.server(interceptors=[MeteringInterceptor(metering, identify)])
    server = grpc.server(threads, interceptors=[SyncMeteringInterceptor(metering, identify)])

Served, and so recorded, is an RPC whose handler has ended, or has sent its first message of a stream; its result code
is the status it ended with, such as `GRPC.NOT_FOUND`, empty for OK. A stream is one call, however many messages it has.
If the caller goes away after the first message, it stays served, with result code `GRPC.CANCELLED`; if before, it is
not recorded. Neither is an RPC of a suspended account, which ends with PERMISSION_DENIED.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from faceid_metering.serving import SUSPENDED, Call, Metered, Metering, now

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Found: TypeAlias = "Handler | None"
AioContext: TypeAlias = "aio.ServicerContext[Any, Any]"
SyncContext: TypeAlias = Any  # a grpc.ServicerContext, whose `code()` its published types leave out
Identify: TypeAlias = Callable[[grpc.HandlerCallDetails], Metered | None]

_DENIED: Final = grpc.StatusCode.PERMISSION_DENIED


def result_code_of_status(status: grpc.StatusCode) -> str:
    """Return the result code of a status: empty for OK, else such as `GRPC.NOT_FOUND`."""
    return "" if status is grpc.StatusCode.OK else f"GRPC.{status.name}"


@dataclass(frozen=True)
class _Meter:
    metering: Metering
    identify: Identify
    result_code: Callable[[grpc.StatusCode], str]
    time_s: Callable[[], float]

    def call(self, details: grpc.HandlerCallDetails) -> Call | None:
        metered = self.identify(details)
        return None if metered is None else Call(self.metering, metered, now(self.time_s))

    def record(self, call: Call, status: grpc.StatusCode) -> None:
        call.record(self.result_code(status))


class _Interceptor:
    def __init__(
        self,
        metering: Metering,
        identify: Identify,
        *,
        result_code: Callable[[grpc.StatusCode], str] = result_code_of_status,
        time_s: Callable[[], float] = time.time,
    ) -> None:
        """Meter with a client, which is not closed here.

        Args:
            metering: The client.
            identify: Tells from method and metadata whose RPC it is; None: not metered.
            result_code: Makes a result code of the status that an RPC ends with; empty is success.
            time_s: The time of day, in seconds since 1970.
        """
        self._meter = _Meter(metering, identify, result_code, time_s)


class MeteringInterceptor(_Interceptor, aio.ServerInterceptor):
    """Meters a server of asyncio."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        """Return the handler of one RPC, metered."""
        handler = await continuation(handler_call_details)
        call = None if handler is None else self._meter.call(handler_call_details)
        if handler is None or call is None:
            return handler
        if not call.is_allowed():
            return _replaced(handler, _aio_denial(streaming=bool(handler.response_streaming)))
        wrap = self._streaming if handler.response_streaming else self._unary
        return _replaced(handler, wrap(call, _behavior(handler)))

    def _unary(self, call: Call, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def serve(request: Any, context: AioContext) -> Any:  # noqa: ANN401 - any message
            try:
                response = await behavior(request, context)
            except Exception:
                self._meter.record(call, _failure(context.code()))
                raise
            self._meter.record(call, _status(context.code()))
            return response

        return serve

    def _streaming(self, call: Call, behavior: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
        async def serve(request: Any, context: AioContext) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
            begun = False
            try:
                async with aclosing(_responses(behavior, request, context)) as responses:
                    async for response in responses:
                        begun = True
                        yield response
            except (asyncio.CancelledError, GeneratorExit):
                if begun:
                    self._meter.record(call, grpc.StatusCode.CANCELLED)
                raise
            except Exception:
                self._meter.record(call, _failure(context.code()))
                raise
            self._meter.record(call, _status(context.code()))

        return serve


class SyncMeteringInterceptor(_Interceptor, grpc.ServerInterceptor):
    """Meters a server of threads, with a client for threads."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Found],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        """Return the handler of one RPC, metered."""
        handler = continuation(handler_call_details)
        call = None if handler is None else self._meter.call(handler_call_details)
        if handler is None or call is None:
            return handler
        if not call.is_allowed():
            return _replaced(handler, _deny)
        wrap = self._streaming if handler.response_streaming else self._unary
        return _replaced(handler, wrap(call, _behavior(handler)))

    def _unary(self, call: Call, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def serve(request: Any, context: SyncContext) -> Any:  # noqa: ANN401 - any message
            try:
                response = behavior(request, context)
            except Exception:
                self._meter.record(call, _failure(context.code()))
                raise
            self._meter.record(call, _status(context.code()))
            return response

        return serve

    def _streaming(self, call: Call, behavior: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def serve(request: Any, context: SyncContext) -> Iterator[Any]:  # noqa: ANN401 - any message
            begun = False
            try:
                for response in behavior(request, context):
                    begun = True
                    yield response
            except GeneratorExit:
                if begun:
                    self._meter.record(call, grpc.StatusCode.CANCELLED)
                raise
            except Exception:
                self._meter.record(call, _failure(context.code()))
                raise
            self._meter.record(call, _status(context.code()))

        return serve


async def _responses(behavior: Callable[..., Any], request: Any, context: AioContext) -> AsyncGenerator[Any, None]:  # noqa: ANN401 - any message
    result = behavior(request, context)
    if inspect.isawaitable(result):  # it writes to the context by itself
        await result
        return
    async for response in result:
        yield response


def _behavior(handler: Handler) -> Callable[..., Any]:
    """Return the one of a handler's four functions that it has."""
    behaviors = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    return next(behavior for behavior in behaviors if behavior is not None)


def _replaced(handler: Handler, behavior: Callable[..., Any]) -> Handler:
    """Return a handler of the same kind with another function."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    kind = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    return kind(
        behavior,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _aio_denial(*, streaming: bool) -> Callable[..., Any]:
    async def deny(_: Any, context: AioContext) -> NoReturn:  # noqa: ANN401 - any message
        await context.abort(_DENIED, SUSPENDED, _denial_trailers())

    async def deny_stream(request: Any, context: AioContext) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
        yield await deny(request, context)

    return deny_stream if streaming else deny


def _deny(_: Any, context: SyncContext) -> NoReturn:  # noqa: ANN401 - any message
    context.set_trailing_metadata(_denial_trailers())
    context.abort(_DENIED, SUSPENDED)
    raise AssertionError("abort raises")


def _denial_trailers() -> tuple[tuple[str, bytes], ...]:
    status = Status(code=_DENIED.value[0], message=SUSPENDED)
    status.details.add().Pack(ErrorInfo(reason="ACCOUNT_SUSPENDED", domain="metering.faceid"))
    return (("grpc-status-details-bin", status.SerializeToString()),)


def _status(code: grpc.StatusCode | int | None) -> grpc.StatusCode:
    """Return the status of an RPC that ended without an exception; asyncio has a number, threads have None for OK."""
    if isinstance(code, int):
        return next(status for status in grpc.StatusCode if status.value[0] == code)
    return grpc.StatusCode.OK if code is None else code


def _failure(code: grpc.StatusCode | int | None) -> grpc.StatusCode:
    """Return the status of an RPC that ended with an exception; gRPC answers UNKNOWN if the handler has set none."""
    status = _status(code)
    return grpc.StatusCode.UNKNOWN if status is grpc.StatusCode.OK else status
