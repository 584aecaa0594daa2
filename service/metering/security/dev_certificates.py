"""A certificate authority for development, and certificates for the server and one client of each role."""

import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from metering.security.callers import Role

TRUST_DOMAIN = "spiffe://faceid.example"
VALID_FOR = timedelta(days=365)
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """Who signs certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, now: datetime) -> "Authority":
        """Return a new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("FaceID Metering development CA")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(name, name, key, now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, SHA256())
        )
        return cls(certificate, key)

    def issue(self, common_name: str, names: Sequence[x509.GeneralName], now: datetime) -> tuple[bytes, bytes]:
        """Return a certificate for a server or client, and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        either = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = (
            _builder(_name(common_name), self.certificate.subject, key, now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(either, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM), _pem(key)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)


def write_certificates(directory: Path, hosts: Sequence[str], now: datetime) -> None:
    """Write all of it into a new or empty directory; raises OSError.

    The authority's key is written nowhere: whoever needs another certificate makes everything anew.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        msg = f"{directory} is not empty: name another directory, or remove it"
        raise FileExistsError(msg)
    authority = Authority.create(now)
    (directory / "ca.pem").write_bytes(authority.pem)
    _write_pair(directory, "server", *authority.issue(hosts[0], [_host(host) for host in hosts], now))
    roles = ["# Made by `metering certs dev`. docs/security.md says what else can stand here."]
    for role in Role:
        identity = f"{TRUST_DOMAIN}/{role}"
        _write_pair(directory, role, *authority.issue(role, [x509.UniformResourceIdentifier(identity)], now))
        roles += ["", f"[identities.{json.dumps(identity)}]", f'role = "{role}"']
    (directory / "roles.toml").write_text("\n".join(roles) + "\n", encoding="utf-8")


def _write_pair(directory: Path, name: str, certificate: bytes, key: bytes) -> None:
    (directory / f"{name}.pem").write_bytes(certificate)
    key_file = os.open(directory / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(key_file, "wb") as file:
        file.write(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
