"""The operator's own certificate authority: made once, kept in a Secret, renewed before it ends; it signs the channel and the webhook.

Rotation in two moves, so that everybody holds the next authority before anything is signed by it:

    current  --(a year before its end)-->  current + next in the bundle  --(30 days later)-->  next is current, old stays in the bundle
"""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_operator.kube.client import ApiClient, ApiError, JsonObject
from finetune_operator.kube.shape import entries, section, text
from finetune_operator.times import CA_DAYS, PREPARE_CA_DAYS, PROMOTE_CA_DAYS, RENEW_SERVING_DAYS, SERVING_DAYS

_MAX_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """PEM text of a certificate and its private key."""

    certificate: str
    key: str

    @property
    def not_after(self) -> datetime:
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc


@dataclass(frozen=True, kw_only=True)
class Authority:
    """`current` signs; `following` is published before it signs; `retired` (a certificate) is still trusted."""

    current: KeyPair
    following: KeyPair | None = None
    retired: str | None = None

    @property
    def bundle(self) -> str:
        parts = [self.current.certificate, self.following.certificate if self.following else None, self.retired]
        return "".join(part for part in parts if part)


def rotate(authority: Authority | None, now: datetime) -> Authority:
    """The authority to use from `now` on; the same value when nothing is due."""
    if authority is None or authority.current.not_after <= now:
        return Authority(current=make_authority(now), retired=None)
    left = authority.current.not_after - now
    if authority.following is None and left < timedelta(days=PREPARE_CA_DAYS):
        return Authority(current=authority.current, following=make_authority(now), retired=authority.retired)
    if authority.following is not None and left < timedelta(days=PROMOTE_CA_DAYS):
        return Authority(current=authority.following, retired=authority.current.certificate)
    return authority


def make_authority(now: datetime) -> KeyPair:
    """A fresh self-signed authority for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-operator-ca")])
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
    builder = _builder(name, name, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _pem(builder.sign(key, SHA256()), key)


def make_serving(authority: KeyPair, dns_names: tuple[str, ...], now: datetime) -> KeyPair:
    """A server's certificate for these names, for a year at most, signed by `authority`."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns_names[0][:64])])
    days = min(SERVING_DAYS, max(1, (issuer.not_valid_after_utc - now).days))
    builder = _builder(name, issuer.subject, key.public_key(), now, days)
    names = x509.SubjectAlternativeName([x509.DNSName(dns_name) for dns_name in dns_names])
    builder = builder.add_extension(names, critical=False).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return _pem(builder.add_extension(issuer_key, critical=False).sign(signer, SHA256()), key)


def is_renewal_due(serving: KeyPair, now: datetime) -> bool:
    return serving.not_after - now < timedelta(days=RENEW_SERVING_DAYS)


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """Every name by which a Service is called inside the cluster."""
    return (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}", service)


def parse_authority(secret: object) -> Authority | None:
    """None for a Secret that holds no authority that can sign: a new one takes its place. Raises nothing."""
    data = section(secret, "data")
    current = _pair_of(data, "ca")
    return None if current is None else Authority(current=current, following=_pair_of(data, "next"), retired=_trusted(data, "retired.crt"))


def _pair_of(data: JsonObject, name: str) -> KeyPair | None:
    """None unless both are there, can be read and belong together."""
    certificate, key = _trusted(data, f"{name}.crt"), _decoded(data, f"{name}.key")
    try:
        signer = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if certificate is None or not isinstance(signer, ec.EllipticCurvePrivateKey):
        return None
    return KeyPair(certificate=certificate, key=key) if _public(certificate) == signer.public_key() else None


def _trusted(data: JsonObject, key: str) -> str | None:
    """The PEM text of a certificate that everybody can load."""
    certificate = _decoded(data, key)
    return certificate if certificate and _public(certificate) is not None else None


def _public(certificate: str) -> object | None:
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _decoded(data: JsonObject, key: str) -> str:
    try:
        return base64.b64decode(text(data, key)).decode("ascii")
    except ValueError:
        return ""


def render_data(authority: Authority) -> dict[str, str]:
    """`data` of the Secret."""
    parts = {"ca.crt": authority.current.certificate, "ca.key": authority.current.key}
    if authority.following is not None:
        parts |= {"next.crt": authority.following.certificate, "next.key": authority.following.key}
    if authority.retired is not None:
        parts["retired.crt"] = authority.retired
    return {key: base64.b64encode(value.encode()).decode() for key, value in parts.items()}


async def ensure_authority(client: ApiClient, namespace: str, secret_name: str, now: datetime) -> Authority:
    """Read the authority, making or rotating it where due; of several replicas that try at once, one wins and all use its result."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            secret = await client.request("GET", f"{path}/{secret_name}")
        except ApiError as error:
            if error.status != 404:
                raise
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret_name}, "type": "Opaque"}
        before = parse_authority(secret)
        authority = rotate(before, now)
        if authority == before:
            return authority
        exists = bool(text(section(secret, "metadata"), "resourceVersion"))
        body = {**secret, "data": render_data(authority)}
        try:
            await client.request("PUT" if exists else "POST", f"{path}/{secret_name}" if exists else path, body=body)
        except ApiError as error:
            if error.status != 409 or attempt == _MAX_TRIES:
                raise
            continue  # another replica was faster: read its result
        return authority
    raise AssertionError("unreachable code")


async def publish_bundle(client: ApiClient, configuration: str, bundle: str) -> None:
    """Put the bundle into every webhook of the ValidatingWebhookConfiguration that lacks it. Raises ApiError (404: there is none)."""
    path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{configuration}"
    encoded = base64.b64encode(bundle.encode()).decode()
    found = await client.request("GET", path)
    hooks = [hook for hook in entries(found, "webhooks") if text(hook, "name")]
    stale = [hook["name"] for hook in hooks if section(hook, "clientConfig").get("caBundle") != encoded]
    if stale:
        webhooks = [{"name": name, "clientConfig": {"caBundle": encoded}} for name in stale]
        patch = {"metadata": {"resourceVersion": text(section(found, "metadata"), "resourceVersion")}, "webhooks": webhooks}
        await client.request("PATCH", path, body=patch, content_type="application/strategic-merge-patch+json")


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int) -> x509.CertificateBuilder:
    start = now.astimezone(UTC) - timedelta(minutes=10)  # clocks of members may be behind
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(start + timedelta(days=days))


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return KeyPair(certificate=certificate.public_bytes(pem).decode(), key=key.private_bytes(pem, pkcs8, plain).decode())
