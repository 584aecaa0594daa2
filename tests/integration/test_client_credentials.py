"""The Python client over TLS, with certificates and with tokens that are replaced."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from faceid_metering import ClientConfig, MeteringClient, MeteringError, SyncMeteringClient, tls_credentials
from tests.support.security import ISSUER, SPIFFE, Certificates, Issuer
from tests.support.service import FakeClock, Service


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


@pytest.fixture
def token_file(tmp_path: Path, issuer: Issuer) -> Path:
    file = tmp_path / "token"
    file.write_text(issuer.token() + "\n")
    return file


@pytest.fixture
async def target(database_url: str, clock: FakeClock, certificates: Certificates, issuer: Issuer) -> AsyncIterator[str]:
    """Return the address of a service that wants tokens."""
    settings = {**certificates.settings(), "jwks_file": issuer.jwks_file, "token_issuer": ISSUER}
    async with Service(database_url, clock, **settings) as service:
        yield service.target.replace("127.0.0.1", "localhost")


async def test_a_client_shows_its_certificate(
    database_url: str, clock: FakeClock, certificates: Certificates, tmp_path: Path
) -> None:
    pair = certificates.client(f"{SPIFFE}/admin")
    cert, key, roles = tmp_path / "client.pem", tmp_path / "client.key", tmp_path / "roles.toml"
    cert.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    roles.write_text(f'[identities."{SPIFFE}/admin"]\nrole = "admin"\n')
    credentials = tls_credentials(ca=certificates.client_ca, cert=cert, key=key)
    async with Service(database_url, clock, **certificates.mutual_settings(roles)) as service:
        target = service.target.replace("127.0.0.1", "localhost")
        async with MeteringClient(target, channel_credentials=credentials) as client:
            assert (await client.activate_account("acme", "CNY")).account_id == "acme"

        def account() -> str:
            with SyncMeteringClient(target, channel_credentials=credentials) as sync:
                return sync.get_account("acme").account_id

        assert await asyncio.to_thread(account) == "acme"


async def test_a_token_is_read_again_when_its_file_changes(
    target: str, certificates: Certificates, issuer: Issuer, token_file: Path
) -> None:
    credentials = tls_credentials(ca=certificates.client_ca, token_file=token_file)
    async with MeteringClient(target, channel_credentials=credentials) as client:
        await client.activate_account("acme", "CNY")
        token_file.write_text(issuer.token("gateway"))
        with pytest.raises(MeteringError) as error:
            await client.activate_account("globex", "CNY")
        assert (error.value.code, error.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_token_that_is_replaced_late_costs_nothing(
    target: str, certificates: Certificates, issuer: Issuer, token_file: Path
) -> None:
    token_file.write_text(issuer.token(exp=1))
    credentials = tls_credentials(ca=certificates.client_ca, token_file=token_file)
    config = ClientConfig(back_off_max_s=0.05, timeout_s=3)
    async with MeteringClient(target, channel_credentials=credentials, config=config) as client:
        with pytest.raises(MeteringError) as error:
            await client.activate_account("acme", "CNY")
        assert error.value.reason == "TOKEN_EXPIRED"
        asked = asyncio.create_task(client.activate_account("acme", "CNY", timeout_s=20))
        done, _ = await asyncio.wait([asked], timeout=0.2)
        assert not done
        token_file.write_text(issuer.token())
        assert (await asked).account_id == "acme"


def test_files_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("two\nlines")
    with pytest.raises(ValueError, match="give cert and key"):
        tls_credentials(ca=certificates.client_ca, cert=certificates.server_cert)
    with pytest.raises(ValueError, match=r"nonsense: there is no PEM CERTIFICATE"):
        tls_credentials(ca=nonsense)
    with pytest.raises(ValueError, match=r"nonsense: there should be a token in it"):
        tls_credentials(ca=certificates.client_ca, token_file=nonsense)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tls_credentials(ca=tmp_path / "nowhere")
