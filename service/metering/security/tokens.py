"""Bearer tokens: JWTs that are signed with one of the keys in a JWKS file."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from metering.security.callers import Caller, caller_of

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that only the issuer can make. Those with a shared secret (HS256) and none at all are not among them."""
RSA_BITS_MIN = 2048
CLOCK_SKEW_S = 30
"""By how much the issuer's clock may differ from ours."""
_SECRET_PARTS = frozenset({"d", "k"})
"""Of a JWK."""
REMEMBERED_MAX = 10_000
"""Tokens whose signature is not checked again; some 10 MB."""


class BadTokenError(Exception):
    """A token is none of the issuer's, or says too little; the message says why, without the token."""


class ExpiredTokenError(BadTokenError):
    """A token is too old: a new one helps."""


@dataclass(frozen=True)
class TokenRules:
    """What a token must say."""

    issuer: str
    audience: str


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    expires_at: float


class TokenChecker:
    """Tells who has sent a token. Checking one takes some 0.4 ms, so tokens are remembered until they expire."""

    def __init__(
        self, keys: dict[str | None, jwt.PyJWK], rules: TokenRules, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._rules = rules
        self._now = now
        self._remembered: dict[str, _Remembered] = {}

    def caller(self, token: str) -> Caller:
        """Return who a token names; raises BadTokenError."""
        known = self._remembered.get(token)
        if known is None:
            known = self._check(token)
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[token] = known
        elif known.expires_at <= self._now():
            del self._remembered[token]
            msg = "the token has expired; send a new one"
            raise ExpiredTokenError(msg)
        return known.caller

    def _check(self, token: str) -> _Remembered:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(key_id)
            if key is None:
                msg = "no key in the JWKS file has the token's kid"
                raise BadTokenError(msg)
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            caller = caller_of(claims["sub"], claims.get("role"), claims.get("accounts"))
        except jwt.ExpiredSignatureError:
            msg = "the token has expired; send a new one"
            raise ExpiredTokenError(msg) from None
        except (jwt.PyJWTError, ValueError) as error:
            # Without a cause: whose traceback might show what was sent.
            msg = f"the token is not accepted: {error}"
            raise BadTokenError(msg) from None
        return _Remembered(caller, float(claims["exp"]) + CLOCK_SKEW_S)


def parse_keys(content: bytes, rules: TokenRules) -> TokenChecker:
    """Return what checks tokens with the keys of a JWKS file; raises ValueError that says what is wrong."""
    try:
        documents = json.loads(content)["keys"]
        keys = [jwt.PyJWK.from_dict(document) for document in documents if document.get("use", "sig") == "sig"]
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Without the library's words, which may show a key that should not be in the file.
        msg = f'not a JWKS document with public keys, {{"keys": [{{"kty": …}}]}} ({type(error).__name__})'
        raise ValueError(msg) from None
    if any(_SECRET_PARTS & document.keys() for document in documents):
        msg = "a private key or a shared secret stands in it; only public keys belong there"
        raise ValueError(msg)
    by_id: dict[str | None, jwt.PyJWK] = {}
    for key in keys:
        if key.algorithm_name not in ALGORITHMS:
            msg = f"key {key.key_id!r}: {key.algorithm_name} is not accepted; {', '.join(ALGORITHMS)} are"
            raise ValueError(msg)
        if isinstance(key.key, RSAPublicKey) and key.key.key_size < RSA_BITS_MIN:
            msg = f"key {key.key_id!r} has {key.key.key_size} bits; RSA takes at least {RSA_BITS_MIN}"
            raise ValueError(msg)
        if key.key_id in by_id:
            msg = f"two keys have the kid {key.key_id!r}; give each one of its own"
            raise ValueError(msg)
        by_id[key.key_id] = key
    if not by_id:
        msg = "no key for signatures in it"
        raise ValueError(msg)
    return TokenChecker(by_id, rules)
