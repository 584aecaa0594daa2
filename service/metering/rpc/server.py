"""The gRPC server: services, health, reflection, limits."""

from collections.abc import Sequence

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from faceid.metering.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    metering_service_pb2,
    metering_service_pb2_grpc,
)
from metering.rpc.account_servicer import AccountServicer
from metering.rpc.edge import Edge
from metering.rpc.metering_servicer import MeteringServicer

SERVICES = (
    metering_service_pb2.DESCRIPTOR.services_by_name["MeteringService"].full_name,
    account_service_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name,
)
MESSAGE_BYTES_MAX = 4 * 1024 * 1024

# More RPCs of one connection wait at its client, before they cost anything here: that is how a gateway is slowed down.
# Not fewer: gRPC refuses the streams of a client that cancels many and opens others before we have seen it.
STREAMS_MAX = 1_000
# gRPC would cancel RPCs at random once 1,000 wait for the event loop. They are bounded by the line above, and by ours.
PENDING_RPCS_MAX = 100_000
# A client may ping an idle connection as often as this without being sent away.
PING_INTERVAL_MIN_MS = 10_000


def server_options(*, share_port: bool) -> Sequence[tuple[str, int]]:
    """Return the options of the gRPC server."""
    return (
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        ("grpc.server.max_pending_requests", PENDING_RPCS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_RPCS_MAX),
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
    )


class RpcServer:
    """Serves both services, health and reflection on one address."""

    def __init__(self, metering: MeteringServicer, accounts: AccountServicer, edge: Edge, *, share_port: bool) -> None:
        """Build it; with `share_port`, several processes may listen on one port, and the kernel spreads connections."""
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(metering, edge)
        account_service_pb2_grpc.add_AccountServiceServicer_to_server(accounts, edge)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, edge)
        names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), edge)
        self._server = aio.server(handlers=[edge], options=server_options(share_port=share_port))

    async def start(self, listen: str) -> int:
        """Listen on HOST:PORT; return the port, which the system chooses for port 0.

        Raises:
            OSError: the address is in use or not of this machine.

        """
        await self.set_serving(serving=False)
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            msg = f"cannot listen on {listen}: {error}"
            raise OSError(msg) from error
        await self._server.start()
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """Set what grpc.health.v1 answers, for the server and each service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        names: Sequence[str] = ("", *SERVICES)
        for name in names:
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no new RPCs, and give those under way some time to end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
