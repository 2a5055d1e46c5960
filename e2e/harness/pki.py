"""Keys, certificates and kubeconfigs of one throw-away cluster, made anew for each run."""

import base64
import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=30)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The cluster's certificate authority; every certificate that it issues serves as server's and client's."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def certificate_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def key_file(self) -> Path:
        return self.folder / "ca.key"

    def issue(self, name: str, *, user: str, group: str | None = None, hosts: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Write NAME.crt and NAME.key; `user` and `group` are what Kubernetes takes from the subject."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [_host(host) for host in hosts]
        builder = _builder(_subject(user, group), self.certificate.subject, key).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate_file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        _write_key(key_file, key)
        return certificate_file, key_file

    def write_kubeconfig(self, file: Path, *, server: str, user: str, group: str | None = None) -> None:
        """A kubeconfig that needs no other file."""
        certificate_file, key_file = self.issue(file.stem, user=user, group=group)
        cluster = {"server": server, "certificate-authority-data": _encoded(self.certificate_file)}
        credentials = {"client-certificate-data": _encoded(certificate_file), "client-key-data": _encoded(key_file)}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": file.stem, "user": credentials}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": file.stem}}],
            "current-context": "e2e",
        }
        file.write_text(json.dumps(kubeconfig, indent=1))
        file.chmod(0o600)


def create_authority(folder: Path) -> Authority:
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("finetune-e2e", None)
    unused = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False)
    usage = x509.KeyUsage(**unused, key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
    builder = _builder(subject, subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    authority = Authority(folder=folder, key=key, certificate=certificate)
    authority.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(authority.key_file, key)
    return authority


def write_token_keys(folder: Path) -> tuple[Path, Path]:
    """The pair that signs service account tokens: RSA, as on most clusters. Returns the private and the public file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "tokens.key", folder / "tokens.pub"
    _write_key(private, key)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(pem)
    return private, public


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
    )


def _subject(user: str, group: str | None) -> x509.Name:
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(file: Path, key: PrivateKey) -> None:
    plain = serialization.NoEncryption()
    # Go's readers of EC keys and of token keys both take the traditional form.
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    file.write_bytes(pem)
    file.chmod(0o600)


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
