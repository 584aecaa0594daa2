"""TLS: who gets a connection, and new certificates without a restart."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests.conftest import ServiceProcesses
from tests.support.command import metering
from tests.support.security import SPIFFE, Certificates, Channels, Pair
from tests.support.service import FakeClock, Service, Stubs
from tests.support.waiting import until

UnknownMethod = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@pytest.fixture
def roles_file(tmp_path: Path) -> Path:
    file = tmp_path / "roles.toml"
    file.write_text(f'[identities."{SPIFFE}/admin"]\nrole = "admin"\n')
    return file


@pytest.fixture
async def mutual(
    database_url: str, clock: FakeClock, certificates: Certificates, roles_file: Path
) -> AsyncIterator[Service]:
    async with Service(database_url, clock, **certificates.mutual_settings(roles_file)) as service:
        yield service


@pytest.fixture
def channels(mutual: Service, certificates: Certificates) -> Channels:
    return Channels(mutual.target, certificates)


async def connects(stubs: Stubs) -> bool:
    """Tell whether there is a connection within a second or so."""
    check: UnknownMethod = stubs.channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        await check(b"", timeout=1.5)
    except grpc.aio.AioRpcError as error:
        assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        return False
    return True


async def test_without_a_certificate_of_our_authority_there_is_no_connection(
    channels: Channels, certificates: Certificates, mutual: Service, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Certificates(tmp_path / "other")
    async with channels.connect(certificates.client(f"{SPIFFE}/admin")) as stubs:
        assert await connects(stubs)
    async with channels.connect() as stubs:
        assert not await connects(stubs)
    async with channels.connect(stranger.client(f"{SPIFFE}/admin")) as stubs:
        assert not await connects(stubs)
    assert not await connects(mutual)  # in plain text


async def test_a_client_that_knows_another_authority_does_not_talk_to_us(channels: Channels, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    async with Channels(channels.target, other).connect(other.client(f"{SPIFFE}/admin")) as stubs:
        assert not await connects(stubs)


async def shown(target: str, certificates: Certificates, client: Pair, tmp_path: Path) -> bytes:
    """Return the certificate that a new connection gets to see, DER."""
    context = ssl.create_default_context(cadata=certificates.authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    both = tmp_path / "client-both.pem"
    both.write_bytes(client.certificate + client.key)
    context.load_cert_chain(both)
    _, port = target.rsplit(":", 1)
    _, writer = await asyncio.open_connection("localhost", int(port), ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def test_new_connections_get_a_new_certificate_and_old_ones_live(
    mutual: Service, channels: Channels, certificates: Certificates, tmp_path: Path
) -> None:
    client = certificates.client(f"{SPIFFE}/admin")
    first = certificates.server_cert.read_bytes()

    async def seen() -> bytes:
        return await shown(mutual.target, certificates, client, tmp_path)

    def broken() -> float | None:
        return mutual.metrics.registry.get_sample_value("metering_broken_files", {"file": "server certificate"})

    def expires() -> float | None:
        return mutual.metrics.registry.get_sample_value("metering_certificate_expires_timestamp_seconds")

    async with channels.connect(client) as old:
        await old.activate("acme")
        assert await seen() == ssl.PEM_cert_to_DER_cert(first.decode())
        await until(expires)
        before = expires()

        key = certificates.server_key.read_bytes()
        certificates.server_key.write_text("-----BEGIN NONSENSE-----")
        await until(lambda: broken() == 1)
        assert await seen() == ssl.PEM_cert_to_DER_cert(first.decode())
        certificates.server_key.write_bytes(key)
        await until(lambda: broken() == 0)

        second = certificates.put_server(age=timedelta(days=1))
        await until(lambda: expires() != before)
        assert await seen() == ssl.PEM_cert_to_DER_cert(second.certificate.decode())
        await old.account("acme")  # over the connection made before
        async with channels.connect(client) as new:
            await new.account("acme")


async def test_a_new_authority_of_clients_takes_effect_without_a_restart(
    mutual: Service, channels: Channels, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "next").mkdir()
    following = Certificates(tmp_path / "next")
    client = following.client(f"{SPIFFE}/admin")
    credentials = grpc.ssl_channel_credentials(certificates.authority.pem, client.key, client.certificate)
    certificates.client_ca.write_bytes(certificates.authority.pem + following.authority.pem)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with asyncio.timeout(20), grpc.aio.secure_channel(channels.target, credentials, options) as channel:
        while not await connects(Stubs(channel)):
            pass
    async with channels.connect(certificates.client(f"{SPIFFE}/admin")) as stubs:
        assert await connects(stubs)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_certificates_for_development_do_for_the_commands(
    processes: ServiceProcesses, tmp_path: Path, workers: str
) -> None:
    directory = tmp_path / "certs"
    code, said = await metering("certs", "dev", str(directory), "--host", "127.0.0.1")
    assert code == 0, said
    service = await processes.start(
        *("--workers", workers),
        *("--server-cert", str(directory / "server.pem"), "--server-key", str(directory / "server.key")),
        *("--client-ca", str(directory / "ca.pem"), "--roles-file", str(directory / "roles.toml")),
    )
    await until(lambda: any("mutual TLS, roles by certificate" in line for line in service.output))

    async def run(role: str, *arguments: str) -> tuple[int | None, str]:
        return await metering(
            *arguments,
            METERING_TARGET=service.target,
            METERING_TLS_CA=str(directory / "ca.pem"),
            METERING_TLS_CERT=str(directory / f"{role}.pem"),
            METERING_TLS_KEY=str(directory / f"{role}.key"),
        )

    assert (await run("reader", "price-plans", "list"))[0] == 0
    assert (await run("biller", "run-month"))[0] == 0
    code, said = await run("reader", "run-month")
    assert (code, "takes the role biller or admin" in said) == (1, True), said
    code, said = await metering("price-plans", "list", METERING_TARGET=service.target)
    assert (code, "without TLS (--tls-ca)" in said) == (1, True), said
    code, said = await metering("acts", METERING_DATABASE_URL=processes.database_url, COLUMNS="200")
    assert code == 0, said
    assert "RunMonth by spiffe://faceid.example/biller (biller) from ipv4:127.0.0.1:" in said
    assert "spiffe://faceid.example/reader" not in said


@pytest.mark.parametrize("broken", ["server.key", "roles.toml"])
async def test_a_file_that_is_broken_at_the_start_is_named_plainly(
    database_url: str, tmp_path: Path, broken: str
) -> None:
    directory = tmp_path / "certs"
    assert (await metering("certs", "dev", str(directory)))[0] == 0
    (directory / broken).write_text("nonsense")
    code, said = await metering(
        *("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
        METERING_DATABASE_URL=database_url,
        METERING_SERVER_CERT=str(directory / "server.pem"),
        METERING_SERVER_KEY=str(directory / "server.key"),
        METERING_CLIENT_CA=str(directory / "ca.pem"),
        METERING_ROLES_FILE=str(directory / "roles.toml"),
    )
    assert (code, str(directory / broken) in said, "Traceback" in said) == (1, True, False), said


async def test_a_token_is_not_sent_in_plain_text(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret-canary")
    code, said = await metering("price-plans", "list", "--token-file", str(token_file))
    assert (code, "only sent over TLS" in said, "secret-canary" in said) == (1, True, False), said
