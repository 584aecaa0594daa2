"""What can go wrong with a fake service, on demand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, NoReturn

import grpc

from faceid_metering.testing.refusal import RefusalError

_RETRY_AFTER_S = 0.01
_RECORDING = frozenset({"RecordCall", "BatchRecordCalls"})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong."""

    delay_s: float = 0
    refused_with: str = ""
    answer_lost: bool = False
    """The request is done, and then answered as if it might not have been."""
    methods: frozenset[str] | None = None
    """None: all."""


class Faults(grpc.ServerInterceptor):
    """Wraps every method: makes its faults happen, and turns refusals into statuses."""

    def __init__(self) -> None:
        """Begin with nothing wrong."""
        self._present: list[Fault] = []
        self.stopping = Event()
        """Ends delays."""

    @contextmanager
    def present(self, fault: Fault) -> Iterator[None]:
        """Have something wrong meanwhile."""
        self._present.append(fault)
        try:
            yield
        finally:
            self._present.remove(fault)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the wrapped handler of a method."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method.rpartition("/")[2]
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._streaming(name, handler.unary_stream), **codecs)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(name, handler.unary_unary), **codecs)
        return handler

    def _unary(self, name: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
            try:
                faults = self._before(name)
                response = behavior(request, context)
                if any(fault.answer_lost for fault in faults):
                    raise _refusal("DATABASE_UNAVAILABLE")
            except RefusalError as refusal:
                _end(context, refusal)
            return response

        return handle

    def _streaming(self, name: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any message
            try:
                self._before(name)
                yield from behavior(request, context)
            except RefusalError as refusal:
                _end(context, refusal)

        return handle

    def _before(self, name: str) -> list[Fault]:
        faults = [fault for fault in self._present if fault.methods is None or name in fault.methods]
        for fault in faults:
            self.stopping.wait(fault.delay_s)
            if fault.refused_with:
                raise _refusal(fault.refused_with)
        return faults


def queue_full() -> Fault:
    """Return the fault that no call is taken, for too many wait."""
    return Fault(refused_with="QUEUE_FULL", methods=_RECORDING)


def unavailable() -> Fault:
    """Return the fault that the database is away."""
    return Fault(refused_with="DATABASE_UNAVAILABLE")


def _refusal(reason: str) -> RefusalError:
    return RefusalError(reason, "a fault that the test asked for; send it again", retry_after_s=_RETRY_AFTER_S)


def _end(context: grpc.ServicerContext, refusal: RefusalError) -> NoReturn:
    context.set_trailing_metadata(refusal.trailers())
    context.abort(refusal.code, str(refusal))
    raise AssertionError("abort raises")
