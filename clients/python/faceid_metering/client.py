"""The client."""

import asyncio
from types import TracebackType
from typing import Self

import grpc

from faceid.metering.v1.account_service_pb2_grpc import AccountServiceStub
from faceid.metering.v1.metering_service_pb2_grpc import MeteringServiceStub
from faceid_metering.account_rpcs import AccountRpcs
from faceid_metering.config import ClientConfig
from faceid_metering.connection import Connection
from faceid_metering.errors import MeteringError
from faceid_metering.metering_rpcs import MeteringRpcs
from faceid_metering.records import CallRecords
from faceid_metering.runtime import Runtime

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
            channel_credentials: For TLS; None: plain text.
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

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

    async def close(self) -> None:
        """Close the connection. Requests under way end with MeteringError (CANCELLED), watches end."""
        await self._connection.close()
