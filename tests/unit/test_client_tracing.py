from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from faceid_metering import MeteringClient, MeteringError, tracing
from faceid_metering.testing import FakeMetering


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Return what is exported; a provider of the test's own, for the process has one only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


async def test_a_request_is_a_span_under_the_callers(spans: InMemorySpanExporter) -> None:
    with FakeMetering() as fake:
        fake.activate("acme")
        async with MeteringClient(fake.target) as metering:
            with tracing._TRACER.start_as_current_span("gateway") as gateway:
                await metering.record_call("acme", "DetectAuth")
            with pytest.raises(MeteringError):
                await metering.get_account("nobody")

    (recorded,) = named(spans, "metering RecordCall")
    assert recorded.parent is not None
    assert recorded.parent.span_id == gateway.get_span_context().span_id
    (failed,) = named(spans, "metering GetAccount")
    assert failed.status.status_code is trace.StatusCode.ERROR


async def test_a_batch_is_a_span_of_its_own_with_the_number_of_its_calls(spans: InMemorySpanExporter) -> None:
    with FakeMetering() as fake:
        fake.activate("acme")
        async with MeteringClient(fake.target) as metering:
            with tracing._TRACER.start_as_current_span("gateway"):
                for _ in range(10):
                    metering.record("acme", "DetectAuth")
            assert await metering.flush(10)

    (batch,) = named(spans, "metering BatchRecordCalls")
    assert batch.parent is None
    assert dict(batch.attributes or {}) == {"metering.calls": 10}
