"""The samples of gateways, run: on a client in memory, and on a real client and a fake service."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest

from faceid_metering import MeteringClient
from faceid_metering.testing import FakeMetering
from samples import grpc_gateway, plain_gateway, starlette_gateway
from tests.support.recording import RecordedInMemory
from tests.support.waiting import until


class InMemory(RecordedInMemory):
    """The client in memory, with what a test asks of both."""

    async def recorded(self) -> list[tuple[str, str, str | None, str]]:
        return [(account_id, api, call_id, code) for account_id, api, call_id, _, code in self.calls]

    async def suspend(self, account_id: str) -> None:
        self.suspended.add(account_id)


class Delivering:
    """A real client of a fake service."""

    def __init__(self, fake: FakeMetering, client: Any) -> None:
        self.fake = fake
        self.client = client
        self.record = client.record
        self.is_active = client.is_active

    async def recorded(self) -> list[tuple[str, str, str | None, str]]:
        await self.client.flush()
        calls = [recorded.call for recorded in self.fake.calls()]
        return [(call.account_id, call.api, call.call_id, call.result_code) for call in calls]

    async def suspend(self, account_id: str) -> None:
        self.fake.suspend(account_id)
        await until(lambda: not self.client.is_active(account_id))


@pytest.fixture(params=["in memory", "delivering"])
async def metering(request: pytest.FixtureRequest) -> AsyncIterator[InMemory | Delivering]:
    if request.param == "in memory":
        yield InMemory()
        return
    with FakeMetering() as fake:
        fake.activate("acme")
        async with MeteringClient(fake.target) as client:
            yield Delivering(fake, client)


@pytest.fixture
def call_id() -> str:
    return str(uuid4())


async def test_the_starlette_gateway(metering: InMemory | Delivering, call_id: str) -> None:
    transport = httpx.ASGITransport(starlette_gateway.gateway(metering))
    headers = {"x-account-id": "acme", "x-request-id": call_id}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        served = await http.post("/faceid/DetectAuth", headers=headers)
        missing = await http.post("/faceid/CompareFace", headers={**headers, "x-request-id": str(uuid4())})
        unmetered = await http.post("/faceid/DetectAuth")
        await metering.suspend("acme")
        refused = await http.post("/faceid/DetectAuth", headers=headers)

    assert [response.status_code for response in (served, missing, unmetered, refused)] == [200, 404, 200, 403]
    assert refused.json()["error"]["reason"] == "ACCOUNT_SUSPENDED"
    first, second = await metering.recorded()
    assert first == ("acme", "DetectAuth", call_id, "")
    assert second[:2] + second[3:] == ("acme", "CompareFace", "HTTP.404")


async def test_the_grpc_gateway(metering: InMemory | Delivering, call_id: str) -> None:
    server = grpc_gateway.gateway(metering)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    metadata = (("x-account-id", "acme"), ("x-request-id", call_id))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        detect_auth: Any = channel.unary_unary("/faceid.Gateway/DetectAuth")
        assert await detect_auth(b"image", metadata=metadata) == b"similarity 0.98"
        await metering.suspend("acme")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await detect_auth(b"image", metadata=metadata)
    await server.stop(None)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await metering.recorded() == [("acme", "DetectAuth", call_id, "")]


async def test_the_plain_gateway(metering: InMemory | Delivering, call_id: str) -> None:
    good = plain_gateway.Request("acme", "DetectAuth", call_id, b"image")
    other_id = str(uuid4())
    bad = plain_gateway.Request("acme", "DetectAuth", other_id, b"")

    answers = list(plain_gateway.serve(metering, [good, bad]))
    await metering.suspend("acme")
    answers += plain_gateway.serve(metering, [good])

    assert answers == ["similarity 0.98", "InvalidImage", "suspended"]
    assert await metering.recorded() == [
        ("acme", "DetectAuth", call_id, ""),
        ("acme", "DetectAuth", other_id, "InvalidImage"),
    ]
