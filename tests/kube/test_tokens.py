"""Tokens: only a valid one for our audience, signed by a published key, names a pod."""

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from tests.kube.builders import merged

from finetune_operator.kube.client import ApiError
from finetune_operator.kube.tokens import KeyUnknown, PodIdentity, TokenInvalid, TokenVerifier, issuer_of, parse_keys, verify_token
from finetune_operator.kube.turns import Pace

NOW = 1_800_000_000.0
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {
    "aud": ["finetune-channel"],
    "exp": NOW + 3600,
    "nbf": NOW - 60,
    "iss": "https://kubernetes.default.svc",
    "kubernetes.io": {"namespace": "team-a", "pod": {"name": "support-bot-0a1b-3", "uid": "pod-uid"}},
}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def integer(number: int, size: int | None = None) -> str:
    return encode(number.to_bytes(size or (number.bit_length() + 7) // 8))


def published() -> dict[str, Any]:
    one, two = RSA_KEY.public_key().public_numbers(), EC_KEY.public_key().public_numbers()
    return {
        "keys": [
            {"kty": "RSA", "kid": "rsa", "alg": "RS256", "use": "sig", "n": integer(one.n), "e": integer(one.e)},
            {"kty": "EC", "kid": "ec", "alg": "ES256", "crv": "P-256", "x": integer(two.x, 32), "y": integer(two.y, 32)},
            {"kty": "OKP", "kid": "other", "crv": "Ed25519", "x": "AA"},
        ]
    }


KEYS = parse_keys(published())


def sign(key_id: str, signed: bytes) -> bytes:
    if key_id == "ec":
        r, s = utils.decode_dss_signature(EC_KEY.sign(signed, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)
    return RSA_KEY.sign(signed, padding.PKCS1v15(), SHA256())


def token(key_id: str = "rsa", algorithm: str | None = None, signature: bytes | None = None, **claims: Any) -> str:
    header = {"kid": key_id, "alg": algorithm or {"ec": "ES256"}.get(key_id, "RS256")}
    signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(merged(CLAIMS, claims)).encode())}"
    return f"{signed}.{encode(sign(key_id, signed.encode()) if signature is None else signature)}"


@pytest.mark.parametrize("key_id", ["rsa", "ec"])
def test_a_valid_token_names_its_pod(key_id) -> None:
    assert verify_token(token(key_id), KEYS, NOW) == PodIdentity(namespace="team-a", name="support-bot-0a1b-3", uid="pod-uid")


def test_a_single_audience_may_be_a_plain_string() -> None:
    assert verify_token(token(aud="finetune-channel"), KEYS, NOW).uid == "pod-uid"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "not a JSON web token"),
        ("a.b.c", "not a JSON web token"),
        ("\u00e9.b.c", "not a JSON web token"),
        (token(aud=["https://kubernetes.default.svc"]), "audience"),
        (token(aud=None), "audience"),
        (token(exp=NOW - 11), "expired"),
        (token(exp=None), "expired"),
        (token(nbf=NOW + 11), "not valid yet"),
        (token(**{"kubernetes.io": {"pod": None}}), "not bound to a pod"),
        (token(**{"kubernetes.io": None}), "not bound to a pod"),
        (token(signature=b"x" * 256), "signature is wrong"),
        (token("ec", signature=b"x" * 64), "signature is wrong"),
        (token(algorithm="none", signature=b""), "does not allow"),
        (token(algorithm="HS256"), "does not allow"),
        (token("ec", algorithm="RS256"), "does not allow"),
    ],
)
def test_any_other_token_is_refused_and_not_quoted(bad, words) -> None:
    with pytest.raises(TokenInvalid, match=words) as refusal:
        verify_token(bad, KEYS, NOW)
    assert not bad or bad not in str(refusal.value)


def test_changed_claims_break_the_signature() -> None:
    head, _, signature = token().split(".")
    forged = encode(json.dumps(merged(CLAIMS, {"kubernetes.io": {"pod": {"uid": "victim"}}})).encode())
    with pytest.raises(TokenInvalid, match="signature"):
        verify_token(f"{head}.{forged}.{signature}", KEYS, NOW)


def test_an_unknown_key_is_told_apart_so_that_keys_are_read_again() -> None:
    with pytest.raises(KeyUnknown):
        verify_token(token("rotated"), KEYS, NOW)


def raw(header: Any, claims: Any = CLAIMS) -> str:
    return f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}.{encode(b'x')}"


@pytest.mark.parametrize(
    "bad",
    [
        raw({"kid": ["rsa"], "alg": "RS256"}),
        raw({"kid": {"a": 1}}),
        raw({"kid": None}),
        raw([]),
        raw("text"),
        raw({"kid": "rsa"}, [1]),
        f"{encode(b'[' * 5000)}.{encode(b'{}')}.eA",
        f"{encode(b'{' + b'9' * 6000)}.{encode(b'{}')}.eA",
        token(exp=float("nan")),
        token(exp=10**400),
        token(nbf=-(10**400)),
        token(**{"kubernetes.io": {"namespace": 3, "pod": {"name": [], "uid": {}}}}),
    ],
)
def test_a_malformed_token_is_a_refusal_and_no_error(bad) -> None:
    with pytest.raises(TokenInvalid):
        verify_token(bad, KEYS, NOW)


@pytest.mark.parametrize(
    "entry",
    [None, 1, {}, {"kty": "RSA", "kid": "a"}, {"kty": "EC", "kid": [], "crv": "P-256"}, {"kty": "RSA", "kid": "a", "n": "!", "e": 3}],
)
def test_a_strange_key_hides_no_other(entry) -> None:
    assert set(parse_keys({"keys": [entry, *published()["keys"]]})) == {"rsa", "ec"}
    assert parse_keys({"keys": entry}) == {}


class Cluster:
    """The API server as far as tokens go; `published` None: the keys cannot be read."""

    def __init__(self, published: dict[str, Any] | None) -> None:
        self.published, self.now, self.asked = published, 0.0, []
        self.verifier = TokenVerifier(self, issuer=lambda: CLAIMS["iss"], wall_clock=lambda: NOW, clock=lambda: self.now)  # type: ignore[arg-type]

    async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        self.asked.append(path)
        if method == "POST":
            return {"status": {"authenticated": False}}
        if self.published is None:
            raise ApiError(403, "Forbidden", "no")
        return self.published

    async def refusals(self, *tokens: str) -> list[str]:
        answers = await asyncio.gather(*(self.verifier.identify(one) for one in tokens), return_exceptions=True)
        assert all(isinstance(answer, TokenInvalid) for answer in answers), answers
        return [answer.why for answer in answers if isinstance(answer, TokenInvalid)]


async def test_a_flood_of_unknown_keys_costs_one_request_in_ten_seconds_and_no_review() -> None:
    cluster = Cluster(published())
    await cluster.refusals(*(token(f"bogus-{number}", signature=b"x") for number in range(200)))
    cluster.now = 9.0
    assert set(await cluster.refusals(token("bogus"))) == {"unknown_key"}
    assert cluster.asked == ["/openid/v1/jwks"]
    cluster.now = 11.0
    await cluster.refusals(token("bogus"), token("bogus-2"))
    assert cluster.asked == ["/openid/v1/jwks"] * 2
    assert (await cluster.verifier.identify(token())).uid == "pod-uid"


async def test_without_keys_reviews_are_few_and_the_line_for_them_is_short() -> None:
    cluster = Cluster(None)
    cluster.verifier._reviews._pace = Pace(rate=1000, burst=5)
    whys = await cluster.refusals(*(token(f"bogus-{number}") for number in range(200)))
    reviews = cluster.asked.count("/apis/authentication.k8s.io/v1/tokenreviews")
    assert reviews <= 16
    assert whys.count("busy") == 200 - reviews
    await cluster.refusals(token("bogus-0"))
    assert cluster.asked.count("/apis/authentication.k8s.io/v1/tokenreviews") == reviews, "what was refused is not asked again"


async def test_a_token_of_another_issuer_is_left_to_the_api_server() -> None:
    cluster = Cluster(published())
    assert await cluster.refusals(token(iss="https://another.cluster")) == ["review"]
    assert issuer_of(token()) == CLAIMS["iss"]
    assert issuer_of("x") is None
