"""A service that does nothing: the limit of unary calls in this stack.

It has the method, the messages and the options of the real one, registered in the same way, and neither metrics,
validation nor database: a RecordCall is parsed, and answered with a message as large as the real answer.
"""

import sys
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop
from google.protobuf.duration_pb2 import Duration
from google.type import money_pb2
from grpc import aio

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import metering_service_pb2_grpc as pb_grpc
from faceid.metering.v1 import resources_pb2
from metering.rpc.server import server_options
from metering.settings import Settings

_DEFAULTS = Settings()
SERVER_OPTIONS = server_options(
    share_port=True, connections_max=_DEFAULTS.connections, connection_age_s=_DEFAULTS.connection_age_s
)


class EchoServicer(pb_grpc.MeteringServiceServicer):
    """Answers every RecordCall with the same message, which looks like the real service's."""

    def __init__(self) -> None:
        self._response = response_of("bench-000000")

    async def RecordCall(  # noqa: N802
        self, request: pb.RecordCallRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.RecordCallResponse:
        return self._response


class _Bare:
    """Registers methods as the real service does (metering.rpc.edge), and wraps none."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: the loop would wait for a future of each method at every RPC."""


async def serve(servicer: pb_grpc.MeteringServiceServicer, port: int) -> None:
    """Serve on a port (0: any) until terminated; the port is printed."""
    edge = _Bare()
    pb_grpc.add_MeteringServiceServicer_to_server(servicer, edge)
    server = aio.server(handlers=edge.handlers, options=SERVER_OPTIONS)
    print(server.add_insecure_port(f"127.0.0.1:{port}"), flush=True)
    await server.start()
    await server.wait_for_termination()


def response_of(account_id: str) -> pb.RecordCallResponse:
    """Return a message that looks like the real service's answer."""
    return pb.RecordCallResponse(
        billing_month="2026-11",
        service_status=resources_pb2.ServiceStatus(
            account_id=account_id,
            state=resources_pb2.SERVICE_STATE_ACTIVE,
            outstanding=money_pb2.Money(currency_code="CNY"),
            version=1,
            age=Duration(nanos=500_000_000),
        ),
    )


if __name__ == "__main__":
    uvloop.run(serve(EchoServicer(), int(sys.argv[1])))
