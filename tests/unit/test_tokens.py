"""Bearer tokens: only those that the issuer made for us, while they last."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from metering.security.callers import Role
from metering.security.tokens import BadTokenError, ExpiredTokenError, TokenChecker, TokenRules, parse_keys
from tests.support.security import AUDIENCE, ISSUER, Issuer

RULES = TokenRules(ISSUER, AUDIENCE)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


@pytest.fixture
def checker(issuer: Issuer) -> TokenChecker:
    return parse_keys(issuer.jwks_file.read_bytes(), RULES)


def test_a_good_token_names_its_caller(issuer: Issuer, checker: TokenChecker) -> None:
    token = issuer.token("reader", sub="portal", accounts=["acme"])
    for _ in range(2):
        caller = checker.caller(token)
        assert (caller.name, caller.role, caller.accounts) == ("portal", Role.READER, frozenset({"acme"}))
    assert checker.caller(issuer.token("biller")).accounts is None


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "another-service"}, "Audience doesn't match"),
        ({"iss": "https://evil.example"}, "Invalid issuer"),
        ({"nbf": int(time.time()) + 3600}, "not yet valid"),
        ({"iat": int(time.time()) + 3600}, "not yet valid"),
        ({"role": "root"}, "'root' is no role"),
        ({"role": ["admin"]}, "is no role"),
        ({"sub": ""}, "is no name"),
        ({"sub": "evil\nline"}, "is no name"),
        ({"accounts": ["acme"]}, "only the role reader"),
        ({"role": "reader", "accounts": []}, "not a list"),
        ({"role": "reader", "accounts": "acme"}, "not a list"),
        ({"role": "reader", "accounts": [1]}, "not a list"),
    ],
)
def test_a_token_that_says_something_wrong_is_refused(
    issuer: Issuer, checker: TokenChecker, claims: dict[str, Any], why: str
) -> None:
    with pytest.raises(BadTokenError, match=why):
        checker.caller(issuer.token(**{"role": "admin", **claims}))


@pytest.mark.parametrize("claim", ["exp", "iss", "aud", "sub", "role"])
def test_a_token_that_says_too_little_is_refused(issuer: Issuer, checker: TokenChecker, claim: str) -> None:
    with pytest.raises(BadTokenError):
        checker.caller(issuer.token(without=[claim]))


def test_a_token_that_has_expired_is_told_from_a_bad_one(issuer: Issuer, checker: TokenChecker) -> None:
    with pytest.raises(ExpiredTokenError):
        checker.caller(issuer.token(exp=int(time.time()) - 60))


def test_a_remembered_token_expires_as_well(issuer: Issuer) -> None:
    now = [time.time()]
    keys = json.loads(issuer.jwks_file.read_text())["keys"]
    checker = TokenChecker({"first": jwt.PyJWK.from_dict(keys[0])}, RULES, lambda: now[0])
    token = issuer.token()
    checker.caller(token)
    now[0] += 89  # 60 s, and the clocks may differ by 30
    checker.caller(token)
    now[0] += 2
    with pytest.raises(ExpiredTokenError):
        checker.caller(token)


def test_a_token_of_somebody_elses_key_is_refused(issuer: Issuer, checker: TokenChecker, tmp_path: Path) -> None:
    stranger = Issuer(tmp_path / "other.json")
    with pytest.raises(BadTokenError, match="Signature verification failed"):
        checker.caller(stranger.token())
    stranger.new_key("unheard-of")
    with pytest.raises(BadTokenError, match="no key in the JWKS file"):
        checker.caller(stranger.token())


def _encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_a_token_without_a_signature_is_refused(issuer: Issuer, checker: TokenChecker) -> None:
    claims = issuer.token().split(".")[1]
    for algorithm in ("none", "None", "NONE"):
        with pytest.raises(BadTokenError):
            checker.caller(f"{_encoded({'alg': algorithm, 'kid': 'first'})}.{claims}.")


def test_the_public_key_is_no_shared_secret(issuer: Issuer, checker: TokenChecker) -> None:
    header = _encoded({"alg": "HS256", "kid": "first", "typ": "JWT"})
    claims = issuer.token().split(".")[1]
    public = issuer.key.public_key()
    hmac = jwt.get_algorithm_by_name("HS256")
    for secret in (
        public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        issuer.jwks_file.read_bytes(),
    ):
        signature = base64.urlsafe_b64encode(hmac.sign(f"{header}.{claims}".encode(), secret)).rstrip(b"=").decode()
        with pytest.raises(BadTokenError, match="alg value is not allowed"):
            checker.caller(f"{header}.{claims}.{signature}")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "x" * 8_000, "é.é.é", "e30.e30.e30"])
def test_what_is_no_token_is_refused(checker: TokenChecker, token: str) -> None:
    with pytest.raises(BadTokenError):
        checker.caller(token)


@pytest.mark.parametrize("role", ["canary"])
def test_an_error_does_not_repeat_the_token(issuer: Issuer, checker: TokenChecker, role: str) -> None:
    token = issuer.token(role)
    with pytest.raises(BadTokenError) as error:
        checker.caller(token)
    for part in token.split("."):
        assert part not in str(error.value)
    assert error.value.__cause__ is None


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def public(key: Any, **more: str) -> dict[str, Any]:
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    return json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key())) | more


def test_rsa_and_elliptic_keys_are_taken() -> None:
    strong = rsa.generate_private_key(65537, 2048)
    curve = ec.generate_private_key(ec.SECP256R1())
    checker = parse_keys(jwks(public(strong, kid="r", alg="PS256"), public(curve, kid="e")), RULES)
    claims = {"iss": ISSUER, "aud": [AUDIENCE, "x"], "sub": "s", "exp": int(time.time()) + 9, "role": "gateway"}
    for key, algorithm, key_id in ((strong, "PS256", "r"), (curve, "ES256", "e")):
        assert checker.caller(jwt.encode(claims, key, algorithm, {"kid": key_id})).role == Role.GATEWAY
    with pytest.raises(BadTokenError):  # the key says PS256
        checker.caller(jwt.encode(claims, strong, "RS256", {"kid": "r"}))


def test_a_jwks_file_that_cannot_be_used_is_named_plainly() -> None:
    weak = public(rsa.generate_private_key(65537, 1024), kid="weak")
    curve = ec.generate_private_key(ec.SECP256R1())
    good = public(curve, kid="k")
    secret = {"kty": "oct", "k": "c2VjcmV0LWNhbmFyeS1zZWNyZXQtY2FuYXJ5", "kid": "shared", "alg": "HS256"}
    for content, why in (
        (b"", "not a JWKS"),
        (b"[]", "not a JWKS"),
        (b'{"keys": 7}', "not a JWKS"),
        (b'{"keys": [7]}', "not a JWKS"),
        (jwks({"kty": "RSA"}), "not a JWKS"),
        (jwks(), "no key for signatures"),
        (jwks(good | {"use": "enc"}), "no key for signatures"),
        (jwks(secret), "a shared secret stands in it"),
        (jwks(secret | {"alg": "HS999"}), "not a JWKS"),
        (jwks(json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(curve))), "a private key"),
        (jwks(weak), "1024 bits"),
        (jwks(good, good), "two keys have the kid 'k'"),
    ):
        with pytest.raises(ValueError, match=why) as error:
            parse_keys(content, RULES)
        assert "c2VjcmV0" not in str(error.value)
