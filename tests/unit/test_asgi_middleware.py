import asyncio
import json
from typing import Any

import pytest

from faceid_metering.asgi import MeteringMiddleware
from faceid_metering.serving import Metered
from tests.support.recording import NOW, RecordedInMemory

CALL_ID = "0192f0c1-2345-7abc-8def-0123456789ab"


def identify(scope: Any) -> Metered | None:
    headers = dict(scope["headers"])
    if scope["path"] == "/health":
        return None
    return Metered(
        account_id=headers[b"account"].decode(), api=scope["path"].strip("/"), call_id=headers[b"id"].decode()
    )


class Application:
    """Answers with a status, and then does what a test wants."""

    def __init__(self, status: int | None = 200, error: BaseException | None = None) -> None:
        self.status = status
        self.error = error
        self.scopes: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope["type"])
        if self.status is not None:
            await send({"type": "http.response.start", "status": self.status, "headers": []})
        if self.error is not None:
            raise self.error
        if self.status is not None:
            await send({"type": "http.response.body", "body": b"done"})


async def request(
    application: Application, metering: RecordedInMemory, path: str = "/DetectAuth", kind: str = "http"
) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    middleware = MeteringMiddleware(application, metering=metering, identify=identify, time_s=NOW.timestamp)
    scope = {"type": kind, "path": path, "headers": [(b"account", b"acme"), (b"id", CALL_ID.encode())]}
    await middleware(scope, receive, send)
    return sent


@pytest.fixture
def metering() -> RecordedInMemory:
    return RecordedInMemory()


async def test_a_served_request_is_recorded_with_the_time_it_came_in(metering: RecordedInMemory) -> None:
    sent = await request(Application(), metering)

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert metering.calls == [("acme", "DetectAuth", CALL_ID, NOW, "")]


async def test_a_suspended_account_is_answered_403_and_nothing_is_served_or_recorded(
    metering: RecordedInMemory,
) -> None:
    metering.suspended.add("acme")
    application = Application()

    start, body = await request(application, metering)

    assert start["status"] == 403
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert json.loads(body["body"])["error"]["reason"] == "ACCOUNT_SUSPENDED"
    assert (application.scopes, metering.calls) == ([], [])


@pytest.mark.parametrize(("status", "result_code"), [(201, ""), (302, ""), (404, "HTTP.404"), (503, "HTTP.503")])
async def test_the_result_code_is_that_of_the_status(metering: RecordedInMemory, status: int, result_code: str) -> None:
    await request(Application(status), metering)
    assert metering.result_codes == [result_code]


async def test_an_application_that_fails_before_its_response_is_recorded_as_status_500(
    metering: RecordedInMemory,
) -> None:
    with pytest.raises(ZeroDivisionError):
        await request(Application(None, ZeroDivisionError()), metering)
    assert metering.result_codes == ["HTTP.500"]


async def test_an_application_that_says_nothing_is_recorded_as_status_500(metering: RecordedInMemory) -> None:
    await request(Application(None), metering)
    assert metering.result_codes == ["HTTP.500"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError(), OSError("the client is gone")])
async def test_what_happens_after_the_response_began_does_not_undo_the_call(
    metering: RecordedInMemory, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await request(Application(200, error), metering)
    assert metering.result_codes == [""]


async def test_a_request_cancelled_before_its_response_is_not_recorded(metering: RecordedInMemory) -> None:
    with pytest.raises(asyncio.CancelledError):
        await request(Application(None, asyncio.CancelledError()), metering)
    assert metering.calls == []


@pytest.mark.parametrize(("path", "kind"), [("/health", "http"), ("/DetectAuth", "websocket"), ("", "lifespan")])
async def test_what_is_not_metered_passes_through(metering: RecordedInMemory, path: str, kind: str) -> None:
    metering.suspended.add("acme")
    application = Application()

    await request(application, metering, path, kind)

    assert (application.scopes, metering.calls) == ([kind], [])


async def test_a_request_that_cannot_be_recorded_is_answered_all_the_same(
    metering: RecordedInMemory, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ValueError("account_id: 'a b' is malformed")

    metering.record = refuse  # type: ignore[method-assign]
    assert [message["type"] for message in await request(Application(), metering)] == [
        "http.response.start",
        "http.response.body",
    ]
    assert "cannot be recorded" in caplog.text
