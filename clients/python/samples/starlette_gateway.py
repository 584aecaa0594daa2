"""A gateway with Starlette, metered by one middleware; FastAPI takes the same.

async with MeteringClient("127.0.0.1:50051") as metering:
    app = gateway(metering)
"""

from collections.abc import MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from faceid_metering.asgi import MeteringMiddleware
from faceid_metering.serving import Metered, Metering


def identify(scope: MutableMapping[str, Any]) -> Metered | None:
    """Tell whose call a request is. Here, whoever authenticated the caller has put the account into a header."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if "x-account-id" not in headers:
        return None
    return Metered(
        account_id=headers["x-account-id"],
        api=scope["path"].rpartition("/")[2],
        call_id=headers.get("x-request-id"),
    )


async def detect_auth(request: Request) -> JSONResponse:
    """Stand in for face recognition."""
    return JSONResponse({"request_id": request.headers.get("x-request-id"), "similarity": 0.98})


def gateway(metering: Metering) -> Starlette:
    """Return the application. Nothing in it knows that it is metered."""
    return Starlette(
        routes=[Route("/faceid/DetectAuth", detect_auth, methods=["POST"])],
        middleware=[Middleware(MeteringMiddleware, metering=metering, identify=identify)],
    )
