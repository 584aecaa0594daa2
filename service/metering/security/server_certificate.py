"""The server's certificate, and whose clients it lets in."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


@dataclass(frozen=True)
class ServerCertificate:
    """What a TLS server shows and demands; each PEM."""

    chain: bytes
    """Its certificate, then those that lead from it towards a root."""
    key: bytes
    client_ca: bytes | None
    """Who comes must have a certificate that leads to one of these; None: nobody needs any."""
    expires_at: datetime
    """When the first of the chain expires."""

    def __repr__(self) -> str:
        """Keep the key to oneself."""
        return f"ServerCertificate(expires_at={self.expires_at:%Y-%m-%d})"


def parse_server_certificate(chain: bytes, key: bytes, client_ca: bytes | None = None) -> ServerCertificate:
    """Return a certificate out of PEM files; raises ValueError that says what is wrong."""
    certificates = _certificates(chain, "the certificate")
    if client_ca is not None:
        _certificates(client_ca, "the clients' CA")
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the library's words and without a cause: what is in that file is a secret.
        msg = "the key is not an unencrypted PEM private key"
        raise ValueError(msg) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != certificates[0].public_key().public_bytes(*form):
        msg = "the key belongs to another certificate"
        raise ValueError(msg)
    return ServerCertificate(chain, key, client_ca, min(each.not_valid_after_utc for each in certificates))


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        msg = f"{what} is not PEM: there should be -----BEGIN CERTIFICATE-----"
        raise ValueError(msg) from None
