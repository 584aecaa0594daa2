"""A gateway that serves gRPC with asyncio, metered by one interceptor.

async with MeteringClient("127.0.0.1:50051") as metering:
    server = gateway(metering)
    server.add_insecure_port("127.0.0.1:8081")
    await server.start()
"""

from typing import Any

import grpc

from faceid_metering.grpc_server import MeteringInterceptor
from faceid_metering.serving import Metered, Metering


def identify(details: grpc.HandlerCallDetails) -> Metered | None:
    """Tell whose call an RPC is. Here, whoever authenticated the caller has put the account into the metadata."""
    metadata = dict(details.invocation_metadata or ())
    if "x-account-id" not in metadata:
        return None
    return Metered(
        account_id=str(metadata["x-account-id"]),
        api=(details.method or "").rpartition("/")[2],
        call_id=str(metadata["x-request-id"]) if "x-request-id" in metadata else None,
    )


async def detect_auth(image: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    """Stand in for face recognition."""
    if not image:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no image")
    return b"similarity 0.98"


def gateway(metering: Metering) -> "grpc.aio.Server":
    """Return the server. Its handlers do not know that they are metered."""
    server = grpc.aio.server(interceptors=[MeteringInterceptor(metering, identify)])
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "DetectAuth": grpc.unary_unary_rpc_method_handler(detect_auth)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("faceid.Gateway", handlers),))
    return server
