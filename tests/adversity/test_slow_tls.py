"""Clients that take their time to say who they are: they wait by themselves, and not for ever."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from metering.rpc import server as server_module
from tests.support.security import SPIFFE, Certificates, Channels
from tests.support.service import FakeClock, Service
from tests.support.waiting import LONG_S

EACH = 20
"""Connections of each kind at the same time."""
PAUSE_S = 0.05
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class SlowClients:
    """What they do once they are connected, until the server hangs up."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context

    async def say_nothing(self) -> None:
        await _until_hung_up(await self._connect())

    async def say_half_a_hello(self) -> None:
        connection, hello = await self._connect(), self._hello()
        connection[1].write(hello[: len(hello) // 2])
        await _until_hung_up(connection)

    async def say_hello_byte_by_byte(self) -> None:
        await _dribble(await self._connect(), self._hello())

    async def say_hello_and_no_more(self) -> None:
        connection = await self._connect()
        connection[1].write(self._hello())
        await _until_hung_up(connection)

    async def shake_hands_and_say_nothing(self) -> None:
        await _until_hung_up(await self._shake_hands())

    async def shake_hands_and_speak_byte_by_byte(self) -> None:
        await _dribble(await self._shake_hands(), PREFACE * 100)

    async def _connect(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _shake_hands(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context, server_hostname="localhost")

    def _hello(self) -> bytes:
        """Return the first message of a handshake."""
        sent = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self._context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
        return sent.read()


async def _until_hung_up(connection: Connection) -> None:
    reader, writer = connection
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while await reader.read(1_024):  # what the server says before
            pass
    writer.close()


async def _dribble(connection: Connection, data: bytes) -> None:
    """Say something, a byte at a time, and never all of it."""
    _, writer = connection
    hung_up = asyncio.create_task(_until_hung_up(connection))
    for byte in data[:-1]:
        if hung_up.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(PAUSE_S)
    await hung_up


async def test_slow_handshakes_keep_nobody_waiting_and_are_hung_up_on(
    database_url: str, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_MS", 2_000)
    certificates = Certificates(tmp_path)
    roles = tmp_path / "roles.toml"
    roles.write_text(f'[identities."{SPIFFE}/admin"]\nrole = "admin"\n')
    admin = certificates.client(f"{SPIFFE}/admin")
    (tmp_path / "admin.pem").write_bytes(admin.certificate + admin.key)
    context = ssl.create_default_context(cafile=certificates.client_ca)
    context.load_cert_chain(tmp_path / "admin.pem")
    context.set_alpn_protocols(["h2"])
    async with Service(database_url, clock, **certificates.mutual_settings(roles)) as service:
        clients = SlowClients(int(service.target.rpartition(":")[2]), context)
        kinds = [
            clients.say_nothing,
            clients.say_half_a_hello,
            clients.say_hello_byte_by_byte,
            clients.say_hello_and_no_more,
            clients.shake_hands_and_say_nothing,
            clients.shake_hands_and_speak_byte_by_byte,
        ]
        slow = [asyncio.ensure_future(be_slow()) for be_slow in kinds for _ in range(EACH)]
        recorded = 0
        async with Channels(service.target, certificates, clock).connect(admin) as gateway, asyncio.timeout(LONG_S):
            await gateway.activate("acme")
            while not all(client.done() for client in slow):
                # One on the connection that stands, and one on a new one.
                await gateway.record(gateway.call("acme"))
                async with Channels(service.target, certificates, clock).connect(admin) as another:
                    await another.record(another.call("acme"))
                recorded += 2
            await asyncio.gather(*slow)
            assert (await gateway.usage("acme", "2026-11")).total_calls == recorded
