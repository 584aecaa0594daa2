"""Certificates, roles and keys are read again when they change, and a broken file changes nothing."""

import logging
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metering.security.callers import Role
from metering.security.dev_certificates import write_certificates
from metering.security.protection import Protection
from metering.security.reloading import BrokenFileError, Reloaded
from metering.security.role_file import parse_roles
from metering.security.server_certificate import parse_server_certificate
from tests.support.security import Certificates


def number(content: bytes) -> int:
    return int(content)


def test_a_file_is_read_again_when_it_changes_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    read: list[int] = []

    def parse(content: bytes) -> int:
        read.append(int(content))
        return read[-1]

    found = Reloaded("number", [file], parse)
    for _ in range(3):
        found.look()
    file.write_text("22")
    for _ in range(3):
        found.look()
    assert (found.value, read) == (22, [1, 22])


def test_a_file_that_is_replaced_by_another_one_is_read_again(tmp_path: Path) -> None:
    file, new = tmp_path / "number", tmp_path / "new"
    file.write_text("1")
    found = Reloaded("number", [file], number)
    new.write_text("2")
    new.replace(file)
    found.look()
    assert found.value == 2


@pytest.mark.parametrize("broken", ["no number", None])
def test_a_broken_or_missing_file_changes_nothing_and_is_told_once(
    tmp_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "number"
    file.write_text("1")
    found = Reloaded("number", [file], number)
    file.unlink() if broken is None else file.write_text(broken)
    for _ in range(3):
        found.look()
    assert (found.value, found.broken) == (1, True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(file) in caplog.text
    file.write_text("333")
    found.look()
    assert (found.value, found.broken) == (333, False)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_file_that_is_broken_from_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match=r"the number cannot be read: .*nowhere"):
        Reloaded("number", [tmp_path / "nowhere"], number)
    (tmp_path / "number").write_text("x")
    with pytest.raises(BrokenFileError, match="number: invalid literal"):
        Reloaded("number", [tmp_path / "number"], number)


def test_a_certificate_and_the_key_of_another_one_are_broken(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    chain, key = certificates.server_cert.read_bytes(), certificates.server_key.read_bytes()
    other = certificates.client("spiffe://x/y")
    ca = certificates.client_ca.read_bytes()
    expires = parse_server_certificate(chain + ca, key, ca).expires_at
    assert timedelta(days=364) < expires - datetime.now(UTC) <= timedelta(days=365)
    for wrong, why in (
        ((chain, other.key), "belongs to another certificate"),
        ((b"x", key), "the certificate is not PEM"),
        ((chain, chain), "the key is not an unencrypted PEM private key"),
        ((chain, b""), "the key is not an unencrypted PEM private key"),
        ((chain, key, b"x"), "the clients' CA is not PEM"),
    ):
        with pytest.raises(ValueError, match=why):
            parse_server_certificate(*wrong)


def test_a_certificate_does_not_show_its_key(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    key = certificates.server_key.read_bytes()
    shown = repr(parse_server_certificate(certificates.server_cert.read_bytes(), key))
    assert "PRIVATE" not in shown
    assert key.splitlines()[1].decode() not in shown


def test_a_roles_file_names_callers() -> None:
    roles = parse_roles(
        b'[identities."spiffe://x/portal"]\nrole = "reader"\naccounts = ["acme", "globex"]\n'
        b'[identities.gateway]\nrole = "gateway"\n'
    )
    portal = roles[b"spiffe://x/portal"]
    assert (portal.name, portal.role, portal.accounts) == ("spiffe://x/portal", Role.READER, {"acme", "globex"})
    assert (roles[b"gateway"].role, roles[b"gateway"].accounts) == (Role.GATEWAY, None)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "there should be tables"),
        ("identities = 7", "there should be tables"),
        ("[identities]", "there should be tables"),
        ('[roles.a]\nrole = "admin"', "there should be tables"),
        ('[identities.a]\nrole = "root"', "identities.'a': 'root' is no role; write one of gateway, reader"),
        ("[identities.a]", "identities.'a': None is no role"),
        ('[identities]\na = "admin"', "identities.'a': there should be role"),
        ('[identities.a]\nrole = "admin"\nacounts = []', "identities.'a': there should be role"),
        ('[identities.a]\nrole = "gateway"\naccounts = ["acme"]', "only the role reader"),
        ('[identities.a]\nrole = "reader"\naccounts = []', "not a list of 1 to"),
        ('[identities."a b"]\nrole = "reader"', "is no name"),
        ('[identities.a]\nrole = "admin"\n[identities.a]\nrole = "reader"', "identities"),
        ("[identities", "at the end of a table declaration"),
    ],
)
def test_a_roles_file_that_cannot_be_used_is_named_plainly(content: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_roles(content.encode())


def test_the_certificates_for_development_fit_together(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    write_certificates(directory, ["localhost", "127.0.0.1"], datetime.now(UTC))
    found = Protection.load(
        server_certificate=(directory / "server.pem", directory / "server.key"),
        client_ca=directory / "ca.pem",
        roles_file=directory / "roles.toml",
        jwks_file=None,
        token_issuer="",
        token_audience="",
    )
    assert found.roles is not None
    assert {caller.role for caller in found.roles.value.values()} == set(Role)
    for key in directory.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not (directory / "ca.key").exists()
    with pytest.raises(FileExistsError, match="is not empty"):
        write_certificates(directory, ["localhost"], datetime.now(UTC))
