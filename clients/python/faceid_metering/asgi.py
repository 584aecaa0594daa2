"""Meters an ASGI application, such as one of Starlette or FastAPI.

app.add_middleware(MeteringMiddleware, metering=metering, identify=identify)
"""

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from faceid_metering.serving import SUSPENDED, Call, Metered, Metering, now

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_SERVER_ERROR = 500
_CLIENT_ERROR = 400


def result_code_of_status(status: int) -> str:
    """Return the result code of an HTTP status: empty below 400, else such as `HTTP.404`."""
    return "" if status < _CLIENT_ERROR else f"HTTP.{status}"


class MeteringMiddleware:
    """Answers suspended accounts, and records every other request that is metered, once the application has ended.

    Served, and so recorded, is a request whose response was begun; its result code is that of the status. If the caller
    goes away or the application fails after that, it stays served: FaceID has done its work. An application that fails,
    or ends without a word, before it has begun a response is recorded with the result code of status 500, which is what
    the server then answers; a price plan says whether such calls cost something. A request that is cancelled before its
    response began is not recorded, nor is one of a suspended account.

    Only HTTP is metered; websockets and lifespan pass through.
    """

    def __init__(
        self,
        app: App,
        *,
        metering: Metering,
        identify: Callable[[Scope], Metered | None],
        result_code: Callable[[int], str] = result_code_of_status,
        time_s: Callable[[], float] = time.time,
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            metering: The client. It is not closed here.
            identify: Tells from the scope whose request it is; None: not metered. What it raises goes to the server.
            result_code: Makes a result code of the response's status; empty is success.
            time_s: The time of day, in seconds since 1970.
        """
        self._app = app
        self._metering = metering
        self._identify = identify
        self._result_code = result_code
        self._time_s = time_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of an ASGI server."""
        metered = self._identify(scope) if scope["type"] == "http" else None
        if metered is None:
            await self._app(scope, receive, send)
            return
        call = Call(self._metering, metered, now(self._time_s))
        if not call.is_allowed():
            await _answer_suspended(metered.account_id, send)
            return
        await self._serve(call, scope, receive, send)

    async def _serve(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        status: int | None = None

        async def sending(message: Message) -> None:
            nonlocal status
            if status is None and message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            status = _SERVER_ERROR if status is None else status
            raise
        else:
            status = _SERVER_ERROR if status is None else status
        finally:
            if status is not None:
                call.record(self._result_code(status))


async def _answer_suspended(account_id: str, send: Send) -> None:
    """Answer 403, for the caller is known and may not; 402 is reserved, and no client knows what it means."""
    error = {"reason": "ACCOUNT_SUSPENDED", "message": SUSPENDED, "account_id": account_id}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
