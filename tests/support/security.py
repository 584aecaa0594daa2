"""Certificates and tokens, and a service that asks for them."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from metering.security.dev_certificates import Authority
from tests.support.service import FakeClock, Stubs

ISSUER = "https://issuer.example"
AUDIENCE = "faceid-metering"
SPIFFE = "spiffe://faceid.example"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Certificates:
    """An authority, with its key, and the files of a server; identities are URIs."""

    def __init__(self, directory: Path) -> None:
        self.now = datetime.now(UTC)
        self.authority = Authority.create(self.now)
        self.server_cert = directory / "server.pem"
        self.server_key = directory / "server.key"
        self.client_ca = directory / "ca.pem"
        self.client_ca.write_bytes(self.authority.pem)
        self.put_server()

    def put_server(self, *, age: timedelta = timedelta()) -> Pair:
        """Put a new certificate in the server's place."""
        names = [x509.DNSName("localhost")]
        pair = Pair(*self.authority.issue("server", names, self.now - age))
        self.server_cert.write_bytes(pair.certificate)
        self.server_key.write_bytes(pair.key)
        return pair

    def client(self, *uris: str, common_name: str = "client") -> Pair:
        """Return a client's certificate."""
        return Pair(*self.authority.issue(common_name, [x509.UniformResourceIdentifier(uri) for uri in uris], self.now))

    def credentials(self, pair: Pair | None = None) -> grpc.ChannelCredentials:
        """Return what a client connects with."""
        if pair is None:
            return grpc.ssl_channel_credentials(self.authority.pem)
        return grpc.ssl_channel_credentials(self.authority.pem, pair.key, pair.certificate)

    def settings(self) -> dict[str, Any]:
        return {"server_cert": self.server_cert, "server_key": self.server_key}

    def mutual_settings(self, roles_file: Path) -> dict[str, Any]:
        return {**self.settings(), "client_ca": self.client_ca, "roles_file": roles_file}


class Issuer:
    """Signs tokens."""

    def __init__(self, jwks_file: Path) -> None:
        self.jwks_file = jwks_file
        self.new_key("first")

    def new_key(self, key_id: str) -> None:
        """Take a new key, and publish it instead of the former one."""
        self.key, self.key_id = Ed25519PrivateKey.generate(), key_id
        public = json.loads(jwt.get_algorithm_by_name("EdDSA").to_jwk(self.key.public_key()))
        self.jwks_file.write_text(json.dumps({"keys": [public | {"kid": key_id, "use": "sig", "alg": "EdDSA"}]}))

    def token(self, role: str = "admin", *, without: Sequence[str] = (), **claims: Any) -> str:
        """Return a token that is good for a minute, unless the claims say something else."""
        now = int(time.time())
        whole = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"{role}-robot",
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "role": role,
            **claims,
        }
        wanted = {name: value for name, value in whole.items() if name not in without}
        return jwt.encode(wanted, self.key, algorithm="EdDSA", headers={"kid": self.key_id})


class Channels:
    """Connections to one service, each with a certificate or a token of its own."""

    def __init__(self, target: str, certificates: Certificates, clock: FakeClock | None = None) -> None:
        self.target = target.replace("127.0.0.1", "localhost")
        self._certificates = certificates
        self._clock = clock

    @asynccontextmanager
    async def connect(self, pair: Pair | None = None, token: str | None = None) -> AsyncIterator[Stubs]:
        """Return stubs on a connection of their own."""
        credentials = self._certificates.credentials(pair)
        if token is not None:
            credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(grpc.aio.secure_channel(self.target, credentials, options))
            yield Stubs(channel, self._clock)
