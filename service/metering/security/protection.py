"""All that says who may come in, read from its files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from metering.security.reloading import Reloaded
from metering.security.role_file import Roles, parse_roles
from metering.security.server_certificate import ServerCertificate, parse_server_certificate
from metering.security.tokens import TokenChecker, TokenRules, parse_keys


@dataclass(frozen=True)
class Protection:
    """What of it there is; nothing at all: no encryption, and nobody is asked who they are."""

    certificate: Reloaded[ServerCertificate] | None = None
    roles: Reloaded[Roles] | None = None
    tokens: Reloaded[TokenChecker] | None = None

    @classmethod
    def load(
        cls,
        *,
        server_certificate: tuple[Path, Path] | None,
        client_ca: Path | None,
        roles_file: Path | None,
        jwks_file: Path | None,
        token_issuer: str,
        token_audience: str,
    ) -> "Protection":
        """Read it; raises BrokenFileError."""
        certificate = roles = tokens = None
        if server_certificate:
            paths = (*server_certificate, client_ca) if client_ca else server_certificate
            certificate = Reloaded("server certificate", paths, parse_server_certificate)
        if roles_file:
            roles = Reloaded("roles file", [roles_file], parse_roles)
        if jwks_file:
            rules = TokenRules(token_issuer, token_audience)
            tokens = Reloaded("JWKS file", [jwks_file], partial(parse_keys, rules=rules))
        return cls(certificate, roles, tokens)

    @property
    def files(self) -> Sequence[Reloaded[Any]]:
        """All that is read again when it changes."""
        return [each for each in (self.certificate, self.roles, self.tokens) if each is not None]

    def __str__(self) -> str:
        """Return how the service is protected, in a few words."""
        if self.roles:
            return "mutual TLS, roles by certificate"
        encryption = "TLS" if self.certificate else "not encrypted"
        return f"{encryption}, {'roles by bearer token' if self.tokens else 'anybody may do everything'}"
