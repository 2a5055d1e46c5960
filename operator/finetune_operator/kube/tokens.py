"""Who holds a projected ServiceAccount token: checked locally against the API server's published keys, then against the pods we know.

Only RS256 and ES256, which are what Kubernetes issues. A token with an unknown key is refused; a TokenReview decides only while the keys
cannot be read, or about a token of another issuer. Reviews have a pace and a short line of their own: they delay no write.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

from finetune_operator.kube.client import ApiClient, ApiError, Unreachable
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.turns import Pace
from finetune_operator.times import CLOCK_LEEWAY_SECONDS, KEYS_LIFE_SECONDS, KEYS_REFRESH_SECONDS, REFUSED_TOKEN_SECONDS

AUDIENCE = "finetune-channel"
_REVIEWS_A_SECOND = 5
_MAX_WAITING_REVIEWS = 15  # the last of them waits for three seconds
_MAX_REFUSED = 4096

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class TokenInvalid(Exception):
    """The token proves nothing; the message says why without quoting it. `why` is one of TOKEN_REFUSALS."""

    def __init__(self, message: str, *, why: str) -> None:
        super().__init__(message)
        self.why = why


class KeyUnknown(Exception):
    """The token names a key that we do not hold: rotated, or not published."""


class IssuerUnknown(Exception):
    """A key of ours signed it for another issuer: an older name of this cluster, or another cluster with the same keys."""


@dataclass(frozen=True, kw_only=True)
class PodIdentity:
    """The pod that a token was issued to."""

    namespace: str
    name: str
    uid: str


def parse_keys(jwks: dict[str, Any]) -> dict[str, PublicKey]:
    """Keys by id from a JSON web key set; kinds that we do not check are left out."""
    entries = jwks.get("keys")
    found = [_parse_key(entry) for entry in entries] if isinstance(entries, list) else []
    return dict(pair for pair in found if pair is not None)


def _parse_key(entry: object) -> tuple[str, PublicKey] | None:
    try:
        kind, key_id = entry["kty"], entry["kid"]  # type: ignore[index]
        if not isinstance(key_id, str):
            return None
        if kind == "RSA":
            return key_id, rsa.RSAPublicNumbers(e=_number(entry["e"]), n=_number(entry["n"])).public_key()  # type: ignore[index]
        if kind == "EC" and entry["crv"] == "P-256":  # type: ignore[index]
            numbers = ec.EllipticCurvePublicNumbers(x=_number(entry["x"]), y=_number(entry["y"]), curve=ec.SECP256R1())  # type: ignore[index]
            return key_id, numbers.public_key()
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # one strange key hides no other
    return None


def verify_token(token: str, keys: dict[str, PublicKey], now_seconds: float, issuer: str | None = None) -> PodIdentity:
    """The pod named by a valid token for our audience. Raises TokenInvalid, KeyUnknown, and IssuerUnknown if `issuer` is another one."""
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenInvalid("not a JSON web token", why="malformed")
    header, claims = _parse_object(parts[0]), _parse_object(parts[1])
    key_id, algorithm, signature = header.get("kid"), header.get("alg"), _parse_signature(parts[2])
    if not isinstance(key_id, str):
        raise TokenInvalid("it names no key", why="malformed")
    if key_id not in keys:
        raise KeyUnknown
    _verify_signature(keys[key_id], algorithm, f"{parts[0]}.{parts[1]}".encode(), signature)
    identity = _verify_claims(claims, now_seconds)
    if issuer is not None and claims.get("iss") != issuer:
        raise IssuerUnknown
    return identity


def _parse_object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(part))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TokenInvalid("not a JSON web token", why="malformed")
    return value


def _parse_signature(part: str) -> bytes:
    try:
        return _decode(part)
    except ValueError:
        raise TokenInvalid("not a JSON web token", why="malformed") from None


def _verify_signature(key: PublicKey, algorithm: object, signed: bytes, signature: bytes) -> None:
    """The algorithm must be the one of the key, whatever the token claims."""
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm == "RS256":
            key.verify(signature, signed, padding.PKCS1v15(), SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ES256" and len(signature) == 64:
            halves = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
            key.verify(utils.encode_dss_signature(*halves), signed, ec.ECDSA(SHA256()))
        else:
            raise TokenInvalid("signed in a way that its key does not allow", why="signature")
    except InvalidSignature:
        raise TokenInvalid("its signature is wrong", why="signature") from None


def _verify_claims(claims: dict[str, Any], now_seconds: float) -> PodIdentity:
    audience = claims.get("aud")
    if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        raise TokenInvalid(f"it is not for the audience {AUDIENCE}", why="claims")
    expires, valid_from = claims.get("exp"), claims.get("nbf", 0)
    if not _is_moment(expires) or now_seconds > expires + CLOCK_LEEWAY_SECONDS:
        raise TokenInvalid("it is expired", why="claims")
    if not _is_moment(valid_from) or now_seconds < valid_from - CLOCK_LEEWAY_SECONDS:
        raise TokenInvalid("it is not valid yet", why="claims")
    try:
        kubernetes = claims["kubernetes.io"]
        return _identity(kubernetes["namespace"], kubernetes["pod"]["name"], kubernetes["pod"]["uid"])
    except (KeyError, TypeError):
        raise TokenInvalid("it is not bound to a pod", why="claims") from None


def _is_moment(value: object) -> TypeGuard[float]:
    """In seconds since 1970; no NaN, and no number of 400 digits, which math.isfinite does not take."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def _identity(namespace: object, name: object, uid: object) -> PodIdentity:
    if not (isinstance(namespace, str) and isinstance(name, str) and isinstance(uid, str) and namespace and name and uid):
        raise TokenInvalid("it is not bound to a pod", why="claims")
    return PodIdentity(namespace=namespace, name=name, uid=uid)


class TokenVerifier:
    """Holds the published keys; reads them again when they are old, and at most every ten seconds when tokens name an unknown one."""

    def __init__(
        self,
        client: ApiClient,
        *,
        issuer: Callable[[], str | None] = lambda: None,
        meters: Meters | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._issuer, self._wall_clock, self._clock = client, issuer, wall_clock, clock
        self._meters = meters
        self._keys: dict[str, PublicKey] = {}
        self._read_at = float("-inf")
        self._are_keys_published = False
        self._reading = asyncio.Lock()
        self._reviews = Reviews(client, clock)

    async def identify(self, token: str) -> PodIdentity:
        """Raises TokenInvalid."""
        try:
            return await self._identify(token)
        except TokenInvalid as refusal:
            if self._meters is not None:
                self._meters.record_refused_token(refusal.why)
            raise

    async def _identify(self, token: str) -> PodIdentity:
        if self._clock() - self._read_at > KEYS_LIFE_SECONDS:
            await self._read_keys(KEYS_LIFE_SECONDS)
        try:
            return self._verify(token)
        except KeyUnknown:
            await self._read_keys(KEYS_REFRESH_SECONDS)
        except IssuerUnknown:
            return await self._reviews.ask(token)
        try:
            return self._verify(token)
        except (KeyUnknown, IssuerUnknown):
            if self._are_keys_published:
                raise TokenInvalid("it is signed by an unknown key", why="unknown_key") from None
        return await self._reviews.ask(token)

    def _verify(self, token: str) -> PodIdentity:
        return verify_token(token, self._keys, self._wall_clock(), self._issuer())

    async def _read_keys(self, life_seconds: float) -> None:
        """One request for all who wait for it: a flood of bad tokens must not become a flood of requests."""
        async with self._reading:
            if self._clock() - self._read_at <= life_seconds:
                return
            self._read_at = self._clock()
            try:
                keys = parse_keys(await self._client.request("GET", "/openid/v1/jwks", accept="application/jwk-set+json"))
            except (ApiError, Unreachable):
                return  # keys from before stay good; without any, TokenReview is asked
            self._keys, self._are_keys_published = keys, bool(keys)


class Reviews:
    """TokenReviews at a pace of their own. What was refused a moment ago is refused without one; who comes to a full line is sent away.

    Refusals are remembered by the whole token, not by its key: anybody can name the key of another.
    """

    def __init__(self, client: ApiClient, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._pace = Pace(rate=_REVIEWS_A_SECOND, burst=_REVIEWS_A_SECOND, clock=clock)
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._refused: OrderedDict[bytes, float] = OrderedDict()

    async def ask(self, token: str) -> PodIdentity:
        """Raises TokenInvalid."""
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if self._refused.get(digest, float("-inf")) > self._clock():
            raise TokenInvalid("the API server did not accept it a moment ago", why="review")
        if self._num_waiting >= _MAX_WAITING_REVIEWS:
            raise TokenInvalid("too many tokens wait for their review", why="busy")
        self._num_waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(self._pace.seconds_until_next())
                self._pace.try_take()
        finally:
            self._num_waiting -= 1
        identity = _parse_review(await self._post(token))
        if identity is None:
            self._refused[digest] = self._clock() + REFUSED_TOKEN_SECONDS
            if len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)
            raise TokenInvalid("the API server does not accept it", why="review")
        return identity

    async def _post(self, token: str) -> dict[str, Any]:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [AUDIENCE]}}
        try:
            return await self._client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)
        except (ApiError, Unreachable):
            raise TokenInvalid("it could be checked neither by key nor by review", why="review") from None


def _parse_review(answer: dict[str, Any]) -> PodIdentity | None:
    """The pod that a TokenReview names; None for a token that is not accepted or not of a pod."""
    try:
        status = answer["status"]
        if status.get("authenticated") is not True or AUDIENCE not in status["audiences"]:
            return None
        user = status["user"]
        name, uid = (user["extra"][f"authentication.kubernetes.io/pod-{what}"][0] for what in ("name", "uid"))
        prefix, kind, namespace, _ = user["username"].split(":")
        return _identity(namespace, name, uid) if (prefix, kind) == ("system", "serviceaccount") else None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, TokenInvalid):
        return None


def issuer_of(token: str | None) -> str | None:
    """`iss` of our own token; None for a token of the old kind, which names another issuer than the tokens of pods."""
    parts = (token or "").split(".")
    try:
        claims = _parse_object(parts[1]) if len(parts) == 3 else {}
    except TokenInvalid:
        return None
    issuer = claims.get("iss")
    return issuer if isinstance(issuer, str) and isinstance(claims.get("kubernetes.io"), dict) else None


def _decode(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _number(text: str) -> int:
    return int.from_bytes(_decode(text))
