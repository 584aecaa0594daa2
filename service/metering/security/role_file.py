"""Who has which role, by the identity in the certificate."""

import tomllib
from collections.abc import Mapping

from metering.security.callers import Caller, caller_of

Roles = Mapping[bytes, Caller]


def parse_roles(content: bytes) -> Roles:
    """Return the callers in a roles file by their identity; raises ValueError that says what is wrong.

    [identities."spiffe://faceid.example/portal"]
    role = "reader"
    accounts = ["acme"]
    """
    document = tomllib.loads(content.decode())
    identities = document.pop("identities", None)
    if document or not isinstance(identities, dict) or not identities:
        msg = 'there should be tables [identities."…"] with a role each, and nothing else'
        raise ValueError(msg)
    return {identity.encode(): _caller(identity, entry) for identity, entry in identities.items()}


def _caller(identity: str, entry: object) -> Caller:
    try:
        if not isinstance(entry, dict) or not entry.keys() <= {"role", "accounts"}:
            msg = "there should be role, for a reader perhaps accounts, and nothing else"
            raise ValueError(msg)  # noqa: TRY301 - told with its place below, as all that is wrong in a file
        return caller_of(identity, entry.get("role"), entry.get("accounts"))
    except ValueError as error:
        msg = f"identities.{identity!r}: {error}"
        raise ValueError(msg) from error
