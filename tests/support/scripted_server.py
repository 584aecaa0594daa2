"""A server that answers as a test tells it to, and time that passes as fast as a test likes. No tests in here."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from faceid.metering.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    metering_service_pb2,
    metering_service_pb2_grpc,
)
from faceid_metering import ClientConfig, MeteringClient, Runtime

Context: TypeAlias = "aio.ServicerContext[Any, Any]"

NOW = datetime(2026, 11, 23, 12, 30, 0, 250_000, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An RPC ends with this error."""

    code: grpc.StatusCode
    message: str = "scripted"
    reason: str = ""
    domain: str = "metering.faceid"
    fields: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None

    def details(self) -> bytes:
        status = Status(code=self.code.value[0], message=self.message)
        if self.reason:
            status.details.add().Pack(ErrorInfo(reason=self.reason, domain=self.domain))
        if self.fields:
            violations = [BadRequest.FieldViolation(field=name, description=text) for name, text in self.fields]
            status.details.add().Pack(BadRequest(field_violations=violations))
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromMilliseconds(round(self.retry_after_s * 1000))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        return bytes(status.SerializeToString())

    async def end(self, context: Context) -> NoReturn:
        await context.abort(self.code, self.message, (("grpc-status-details-bin", self.details()),))


class Hang:
    """An RPC goes on without another word."""

    async def stay(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("nothing ends this")


HANG: Final = Hang()
UNAVAILABLE: Final = Failure(code=grpc.StatusCode.UNAVAILABLE)

Step: TypeAlias = Message | Failure | Hang


@dataclass
class ScriptedServer:
    """Both services. What they answer stands in `script`, an entry for each RPC; a stream's entry is a sequence."""

    port: int = 0
    script: dict[str, list[Step | Sequence[Step]]] = field(default_factory=lambda: defaultdict(list))
    requests: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    allowed_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    begun: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    ended: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedServer"]:
        """Serve, on the same port each time."""
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        methods = [
            *metering_service_pb2.DESCRIPTOR.services_by_name["MeteringService"].methods,
            *account_service_pb2.DESCRIPTOR.services_by_name["AccountService"].methods,
        ]
        for method in methods:
            play = self._play_stream if method.server_streaming else self._play_unary
            setattr(self, method.name, partial(play, method.name))
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(self, server)
        account_service_pb2_grpc.add_AccountServiceServicer_to_server(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def client(self, runtime: Runtime, config: ClientConfig | None = None) -> MeteringClient:
        return MeteringClient(f"127.0.0.1:{self.port}", config=config or ClientConfig(), runtime=runtime)

    def _next(self, name: str, request: Message, context: Context) -> Step | Sequence[Step]:
        self.requests[name].append(request)
        self.allowed_s[name].append(context.time_remaining())
        self.begun[name].set()
        return self.script[name].pop(0)

    async def _play_unary(self, name: str, request: Message, context: Context) -> Message:
        step = self._next(name, request, context)
        assert not isinstance(step, Sequence)
        return await _play(step, context)

    async def _play_stream(self, name: str, request: Message, context: Context) -> AsyncIterator[Message]:
        steps = self._next(name, request, context)
        assert isinstance(steps, Sequence)
        try:
            for step in steps:
                yield await _play(step, context)
        finally:
            self.ended[name].set()


async def _play(step: Step, context: Context) -> Message:
    if isinstance(step, Failure):
        await step.end(context)
    if isinstance(step, Hang):
        await step.stay()
    return step


class FakeTime:
    """Time that passes only in pauses, which take none; the longest back-off is drawn each time."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []
        self.drawn: list[tuple[float, float]] = []
        self.runtime = Runtime(
            time_s=lambda: NOW.timestamp() + self.passed_s(),
            monotonic_s=self.passed_s,
            sleep=self._sleep,
            uniform=self._uniform,
        )

    def passed_s(self) -> float:
        return sum(self.pauses_s)

    async def _sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)

    def _uniform(self, low: float, high: float) -> float:
        self.drawn.append((low, high))
        return high
