"""Spans of OpenTelemetry around requests to the service, where the user has `opentelemetry-api` installed.

`record` has no span of its own: it would cost more than to record.
"""

from contextlib import AbstractContextManager, nullcontext

from google.protobuf.message import Message

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
except ImportError:

    def request_span(request: Message) -> AbstractContextManager[object]:  # noqa: ARG001 - as below
        """Do nothing."""
        return nullcontext()

    def batch_span(calls: int) -> AbstractContextManager[object]:  # noqa: ARG001 - as below
        """Do nothing."""
        return nullcontext()

else:
    _TRACER = trace.get_tracer("faceid_metering")  # of whatever provider is set, now or later

    def request_span(request: Message) -> AbstractContextManager[object]:
        """Return a span for a request with its retries, a child of the caller's, with what it raises."""
        name = type(request).__name__.removesuffix("Request")
        return _TRACER.start_as_current_span(f"metering {name}", kind=trace.SpanKind.CLIENT)

    def batch_span(calls: int) -> AbstractContextManager[object]:
        """Return a span for one attempt to deliver a batch of recorded calls.

        It is nobody's child: its calls are those of many requests, and the task that sends them was started by the
        first of all.
        """
        return _TRACER.start_as_current_span(
            "metering BatchRecordCalls",
            context=Context(),
            kind=trace.SpanKind.CLIENT,
            attributes={"metering.calls": calls},
        )
