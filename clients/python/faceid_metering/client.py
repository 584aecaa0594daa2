"""The client."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

import grpc

from faceid.metering.v1.account_service_pb2_grpc import AccountServiceStub
from faceid.metering.v1.metering_service_pb2_grpc import MeteringServiceStub
from faceid_metering.account_rpcs import AccountRpcs
from faceid_metering.config import ClientConfig, Durability
from faceid_metering.connection import Connection
from faceid_metering.delivery import Delivery
from faceid_metering.encoding import CallEncoder
from faceid_metering.errors import MeteringError
from faceid_metering.metering_rpcs import MeteringRpcs
from faceid_metering.records import CallRecords
from faceid_metering.runtime import Runtime
from faceid_metering.stats import ClientStats
from faceid_metering.status import StatusBook

_CONFIG = ClientConfig()
_RUNTIME = Runtime()


class MeteringClient(MeteringRpcs, AccountRpcs):
    """A client of the metering service, for asyncio.

    Each method sends its request again when that may help (UNAVAILABLE, RESOURCE_EXHAUSTED with a hint when to try
    again, DEADLINE_EXCEEDED), which is safe: no method counts, charges or books twice. It pauses in between as
    `ClientConfig` says, and never for less than the service asks for. `timeout_s` is how long it may take in all, if
    not as configured.

    Every method raises MeteringError. Amounts are `google.type.Money` messages: see `to_decimal`.
    """

    def __init__(
        self,
        target: str,
        *,
        config: ClientConfig = _CONFIG,
        channel_credentials: grpc.ChannelCredentials | None = None,
        runtime: Runtime = _RUNTIME,
    ) -> None:
        """Make a client; it connects with the first request.

        Args:
            target: The service as gRPC names it: `127.0.0.1:50051`, or `dns:///metering:50051` for several replicas.
            config: Time limits.
            channel_credentials: For TLS, see `tls_credentials`; None: plain text.
            runtime: Time and chance, for tests.

        Raises:
            RuntimeError: No event loop is running. A client belongs to the loop that it is made in.
        """
        asyncio.get_running_loop()
        self._target = target
        self._connection = Connection(target, config, runtime, channel_credentials)
        self._records = CallRecords(runtime)
        self._metering_stub = MeteringServiceStub(self._connection.channel)
        self._account_stub = AccountServiceStub(self._connection.channel)
        self._encode = CallEncoder(runtime).encode
        self._stats = ClientStats()
        self._more_connections = [
            Connection(target, config, runtime, channel_credentials) for _ in range(config.connections - 1)
        ]
        self._statuses = StatusBook(config, self._connection, self._stats)
        self.is_active = self._statuses.is_active
        self._delivery = Delivery(
            config, runtime, [self._connection, *self._more_connections], self._stats, self._statuses.learn
        )
        self._put = self._delivery.outbox.put
        if config.spool_dir is not None:  # there may be calls that an earlier client has left
            self._delivery.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def wait_until_connected(self, timeout_s: float) -> None:
        """Return once there is a connection; a client needs no such wait, but it tells a wrong address soon.

        Raises:
            MeteringError: UNAVAILABLE, there was none within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.channel.channel_ready()
        except TimeoutError as error:
            message = f"no metering service answers at {self._target}"
            raise MeteringError(grpc.StatusCode.UNAVAILABLE, message) from error

    is_active: Callable[[str], bool]
    """Return whether an account may call, from what this client has heard: `is_active(account_id)`.

    It neither waits nor raises, and may be called from any thread. An account is asked for when it is first seen;
    until the answer is there, and when nothing is heard of the service, `ClientConfig.status_when_unknown` and
    `status_when_lost` say what is answered.
    """

    def record(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
        durability: Durability | str | None = None,
    ) -> str:
        """Record a call in the background, and return its call_id at once; may be called from any thread.

        The arguments are those of `call_record`. It is sent until it is answered, and goes to the spool if that takes
        long; `ClientConfig` says what happens at the bounds. `durability` is where it is put first, if not as
        configured.

        Raises:
            ValueError: An argument is malformed. The meter's troubles raise nothing.
        """
        call_id, call = self._encode(account_id, api, call_id, occurred_at, result_code)
        self._put(call, durability)
        return call_id

    async def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was recorded so far is acknowledged or in the spool; False: it took too long."""
        return await self._delivery.flush(timeout_s)

    def stats(self) -> ClientStats:
        """Return what this client counts; it goes on counting in the same object, sizes are those of now."""
        self._delivery.gauge()
        self._statuses.gauge()
        return self._stats

    async def aclose(self) -> None:
        """Deliver or spool what waits, then close the connections.

        Requests under way end with MeteringError (CANCELLED), watches end. A call recorded later is dropped, and
        counted.
        """
        await self._delivery.close()
        await self._statuses.close()
        for connection in (self._connection, *self._more_connections):
            await connection.close()

    close = aclose
