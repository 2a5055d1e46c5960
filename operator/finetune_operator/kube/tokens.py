"""Who holds a projected ServiceAccount token: checked locally against the API server's published keys, then against the pods we know.

Only RS256 and ES256, which are what Kubernetes issues. Where the keys cannot be read or the key is unknown, a TokenReview decides.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

from finetune_operator.kube.client import ApiClient, ApiError, Unreachable

AUDIENCE = "finetune-channel"
_LEEWAY_SECONDS = 10
_KEYS_LIFE_SECONDS = 3600.0
_REFRESH_SECONDS = 10.0

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class TokenInvalid(Exception):
    """The token proves nothing; the message says why without quoting it."""


class KeyUnknown(Exception):
    """The token names a key that we do not hold: rotated, or not published."""


@dataclass(frozen=True, kw_only=True)
class PodIdentity:
    """The pod that a token was issued to."""

    namespace: str
    name: str
    uid: str


def parse_keys(jwks: dict[str, Any]) -> dict[str, PublicKey]:
    """Keys by id from a JSON web key set; kinds that we do not check are left out."""
    keys: dict[str, PublicKey] = {}
    for entry in jwks.get("keys") or []:
        if entry.get("kty") == "RSA":
            keys[entry["kid"]] = rsa.RSAPublicNumbers(e=_number(entry["e"]), n=_number(entry["n"])).public_key()
        elif entry.get("kty") == "EC" and entry.get("crv") == "P-256":
            numbers = ec.EllipticCurvePublicNumbers(x=_number(entry["x"]), y=_number(entry["y"]), curve=ec.SECP256R1())
            keys[entry["kid"]] = numbers.public_key()
    return keys


def verify_token(token: str, keys: dict[str, PublicKey], now_seconds: float) -> PodIdentity:
    """The pod named by a valid token for our audience. Raises TokenInvalid or KeyUnknown."""
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenInvalid("not a JSON web token")
    try:
        header, claims, signature = json.loads(_decode(parts[0])), json.loads(_decode(parts[1])), _decode(parts[2])
        key_id, algorithm = header.get("kid"), header.get("alg")
    except (ValueError, AttributeError):
        raise TokenInvalid("not a JSON web token") from None
    if key_id not in keys:
        raise KeyUnknown
    _verify_signature(keys[key_id], algorithm, f"{parts[0]}.{parts[1]}".encode(), signature)
    return _verify_claims(claims, now_seconds)


def _verify_signature(key: PublicKey, algorithm: object, signed: bytes, signature: bytes) -> None:
    """The algorithm must be the one of the key, whatever the token claims."""
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm == "RS256":
            key.verify(signature, signed, padding.PKCS1v15(), SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ES256" and len(signature) == 64:
            halves = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
            key.verify(utils.encode_dss_signature(*halves), signed, ec.ECDSA(SHA256()))
        else:
            raise TokenInvalid("signed in a way that its key does not allow")
    except InvalidSignature:
        raise TokenInvalid("its signature is wrong") from None


def _verify_claims(claims: dict[str, Any], now_seconds: float) -> PodIdentity:
    audience = claims.get("aud")
    if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        raise TokenInvalid(f"it is not for the audience {AUDIENCE}")
    expires, valid_from = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, int | float) or now_seconds > expires + _LEEWAY_SECONDS:
        raise TokenInvalid("it is expired")
    if not isinstance(valid_from, int | float) or now_seconds < valid_from - _LEEWAY_SECONDS:
        raise TokenInvalid("it is not valid yet")
    try:
        kubernetes = claims["kubernetes.io"]
        return PodIdentity(namespace=kubernetes["namespace"], name=kubernetes["pod"]["name"], uid=kubernetes["pod"]["uid"])
    except (KeyError, TypeError):
        raise TokenInvalid("it is not bound to a pod") from None


class TokenVerifier:
    """Holds the published keys, reads them again when they are old or a token names an unknown one, and falls back to TokenReview."""

    def __init__(
        self, client: ApiClient, *, wall_clock: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._wall_clock, self._clock = client, wall_clock, clock
        self._keys: dict[str, PublicKey] = {}
        self._read_at = float("-inf")

    async def identify(self, token: str) -> PodIdentity:
        """Raises TokenInvalid."""
        if self._clock() - self._read_at > _KEYS_LIFE_SECONDS:
            await self._read_keys()
        for attempt in (self._verify_held, self._verify_refreshed, self._review):
            try:
                return await attempt(token)
            except KeyUnknown:
                continue
        raise TokenInvalid("it is signed by an unknown key")

    async def _verify_held(self, token: str) -> PodIdentity:
        return verify_token(token, self._keys, self._wall_clock())

    async def _verify_refreshed(self, token: str) -> PodIdentity:
        if self._clock() - self._read_at > _REFRESH_SECONDS:  # a flood of bad tokens must not become a flood of requests
            await self._read_keys()
        return verify_token(token, self._keys, self._wall_clock())

    async def _read_keys(self) -> None:
        self._read_at = self._clock()
        try:
            self._keys = parse_keys(await self._client.request("GET", "/openid/v1/jwks", accept="application/jwk-set+json"))
        except (ApiError, Unreachable):
            return  # keys from before stay good; without any, TokenReview is asked

    async def _review(self, token: str) -> PodIdentity:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [AUDIENCE]}}
        try:
            answer = await self._client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)
        except (ApiError, Unreachable):
            raise TokenInvalid("it could be checked neither by key nor by review") from None
        status = answer.get("status") or {}
        if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or []):
            raise TokenInvalid("the API server does not accept it")
        user = status["user"]
        extra = user.get("extra") or {}
        name, uid = extra.get("authentication.kubernetes.io/pod-name"), extra.get("authentication.kubernetes.io/pod-uid")
        parts = str(user.get("username")).split(":")
        if not name or not uid or len(parts) != 4:
            raise TokenInvalid("it is not bound to a pod")
        return PodIdentity(namespace=parts[2], name=name[0], uid=uid[0])


def _decode(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _number(text: str) -> int:
    return int.from_bytes(_decode(text))
