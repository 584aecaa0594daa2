"""A channel to the service, and how RPCs go over it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from faceid_metering.config import ClientConfig
from faceid_metering.errors import MeteringError, translated_errors
from faceid_metering.retry import Retries
from faceid_metering.runtime import Runtime
from faceid_metering.tracing import request_span

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

_PING_TIMEOUT_MS = 20_000
_MS_MAX = 2**31 - 1  # for ever, to the core


class Connection:
    """A channel, and the ways of a client on it."""

    def __init__(
        self, target: str, config: ClientConfig, runtime: Runtime, credentials: grpc.ChannelCredentials | None
    ) -> None:
        """Connect to a target as gRPC writes it, in plain text unless there are credentials."""
        self.config = config
        self.runtime = runtime
        self.closed = False
        self._streams: set[aio.RpcContext] = set()
        options = _options(config)
        self.channel = (
            aio.insecure_channel(target, options)
            if credentials is None
            else aio.secure_channel(target, credentials, options)
        )

    async def close(self) -> None:
        """End all RPCs under way, with MeteringError (CANCELLED)."""
        self.closed = True
        # In the oldest grpcio that is supported (1.76), closing the channel leaves its streams open.
        for call in self._streams:
            call.cancel()
        await self.channel.close()

    def retries(self, timeout_s: float | None) -> Retries:
        """Return the attempts of a request that begins now; None: as configured."""
        return Retries(self.config, self.runtime, self.config.timeout_s if timeout_s is None else timeout_s)

    async def unary(
        self,
        method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
        attempt_timeout_s: float | None = None,
    ) -> ResponseT:
        """Send a request, the same one until it is answered, for as long as `timeout_s` in all.

        Raises:
            MeteringError: It was refused, or time ran out; then it is the last attempt's error.
        """
        retries = self.retries(timeout_s)
        attempt_timeout_s = self.config.attempt_timeout_s if attempt_timeout_s is None else attempt_timeout_s
        with request_span(request):
            while True:
                try:
                    with translated_errors():
                        return await method(request, timeout=min(attempt_timeout_s, retries.remaining_s()))
                except MeteringError as error:
                    await retries.pause_after(error)

    async def stream(
        self,
        method: aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        message_timeout_s: float | None,
    ) -> AsyncGenerator[ResponseT, None]:
        """Yield the responses to a single attempt.

        Raises:
            MeteringError: It failed, or a response took longer than `message_timeout_s` (None: may take for ever).
        """
        with translated_errors():
            call = method(request)
        responses = aiter(call)
        self._streams.add(call)
        try:
            while True:
                try:
                    with translated_errors():
                        async with asyncio.timeout(message_timeout_s):
                            response = await anext(responses, None)
                except TimeoutError as error:
                    message = f"nothing came for {message_timeout_s} s"
                    raise MeteringError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error
                if response is None:
                    return
                yield response
        finally:
            self._streams.discard(call)
            call.cancel()


def _options(config: ClientConfig) -> list[tuple[str, str | int]]:
    return [
        # The core would retry by its own rules, which know nothing of reasons.
        ("grpc.enable_retries", 0),
        # Where a name stands for several replicas, an attempt that one of them refused goes to another.
        ("grpc.lb_policy_name", "round_robin"),
        # Else all clients of a process share one connection, and so a single worker of the server.
        ("grpc.use_local_subchannel_pool", 1),
        # The core's 2 minutes would keep a client away for so long after the service is back.
        ("grpc.initial_reconnect_backoff_ms", _ms(config.back_off_initial_s)),
        ("grpc.max_reconnect_backoff_ms", _ms(config.back_off_max_s)),
        ("grpc.keepalive_time_ms", _ms(config.keepalive_interval_s)),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        # The core waits a minute for the answer without this one, whatever the one above says.
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        # A watch sends nothing but pings, and the core would stop after two of them.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _ms(seconds: float) -> int:
    return int(min(seconds * 1000, _MS_MAX))
