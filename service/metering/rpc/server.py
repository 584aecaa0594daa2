"""The gRPC server: services, health, reflection, limits."""

from collections.abc import Sequence
from typing import Any

import grpc
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
from metering.security.reloading import Reloaded
from metering.security.server_certificate import ServerCertificate

SERVICES = (
    metering_service_pb2.DESCRIPTOR.services_by_name["MeteringService"].full_name,
    account_service_pb2.DESCRIPTOR.services_by_name["AccountService"].full_name,
)
MESSAGE_BYTES_MAX = 4 * 1024 * 1024

# More RPCs of one connection wait at its client, before they cost anything here: that is how a gateway is slowed down.
# Not fewer: gRPC refuses the streams of a client that cancels many and opens others before we have seen it.
STREAMS_MAX = 1_000
# gRPC would cancel RPCs at random once 1,000 wait for the event loop. So many bound what clients can make it hold that
# open and cancel streams without end; and since they do, gRPC need not refuse streams to those whose last ones are not
# yet cleared away, which under overload are all clients. docs/performance.md.
PENDING_RPCS_MAX = 20_000
# A client may ping an idle connection as often as this without being sent away.
PING_INTERVAL_MIN_MS = 10_000
# Whoever has not answered a ping is gone, though its machine may have had no time to say so: its streams end.
PING_AFTER_MS, PING_TIMEOUT_MS = 30_000, 10_000
# What is under way on a connection that is too old is cut in the end: a watch is renewed, and who sends a request byte
# by byte holds nothing for ever. Closing a month takes minutes at the most.
CONNECTION_GRACE_MS = 3_600_000
# Whoever connects and does not say what it wants is not waited for.
HANDSHAKE_TIMEOUT_MS = 10_000


def server_options(*, share_port: bool, connections_max: int, connection_age_s: float) -> Sequence[tuple[str, int]]:
    """Return the options of the gRPC server."""
    return (
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.max_connection_age_ms", round(connection_age_s * 1000)),  # gRPC makes it a tenth more or less by itself
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
        ("grpc.keepalive_time_ms", PING_AFTER_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", PENDING_RPCS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_RPCS_MAX),
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
    )


def server_credentials(certificate: Reloaded[ServerCertificate]) -> grpc.ServerCredentials:
    """Return what makes each new connection use the certificate then in force; those that stand keep theirs."""
    in_use = certificate.value

    def fetch_changed() -> Any:  # noqa: ANN401 - a configuration or None, which its stub does not know of
        nonlocal in_use
        newest = certificate.value
        if newest is in_use:
            return None
        in_use = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use), fetch_changed, require_client_authentication=in_use.client_ca is not None
    )


def _configuration(certificate: ServerCertificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)], certificate.client_ca)


class RpcServer:
    """Serves both services, health and, if wanted, reflection on one address."""

    def __init__(
        self,
        metering: MeteringServicer,
        accounts: AccountServicer,
        edge: Edge,
        certificate: Reloaded[ServerCertificate] | None,
        *,
        reflects: bool,
        share_port: bool,
        connections_max: int,
        connection_age_s: float,
    ) -> None:
        """Build it.

        Args:
            metering: one of the services.
            accounts: the other one.
            edge: what all methods go through.
            certificate: for TLS; None: nothing is encrypted.
            reflects: whether reflection is served.
            share_port: several processes may listen on one port, and the kernel spreads connections.
            connections_max: so many are accepted at once.
            connection_age_s: after which each is to be made anew, more or less.

        """
        self._certificate = certificate
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(metering, edge)
        account_service_pb2_grpc.add_AccountServiceServicer_to_server(accounts, edge)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, edge)
        if reflects:
            names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), edge)
        options = server_options(
            share_port=share_port, connections_max=connections_max, connection_age_s=connection_age_s
        )
        self._server = aio.server(handlers=[edge], options=options)

    async def start(self, listen: str) -> int:
        """Listen on HOST:PORT; return the port, which the system chooses for port 0.

        Raises:
            OSError: the address is in use or not of this machine.

        """
        await self.set_serving(serving=False)
        try:
            if self._certificate is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, server_credentials(self._certificate))
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
