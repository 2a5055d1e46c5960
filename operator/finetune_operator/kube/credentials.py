"""Where the API server is and how we prove who we are: the pod's service account, or a kubeconfig with token or client certificate.

It does not run credential plugins.
"""

import base64
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class CredentialsError(Exception):
    """The kubeconfig (or the service account) cannot be used; the message names what is missing."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """`token_file` is read again for every minute of use, because the kubelet renews it."""

    server: str
    ssl_context: ssl.SSLContext | None
    token: str | None = None
    token_file: Path | None = None

    def read_token(self) -> str | None:
        return self.token_file.read_text().strip() if self.token_file else self.token


def read_service_account(server: str, folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """Raises CredentialsError outside a pod."""
    token_file = folder / "token"
    if not token_file.exists():
        raise CredentialsError(f"{token_file} does not exist: not in a pod, and no kubeconfig is named")
    return Credentials(server=server, ssl_context=ssl.create_default_context(cafile=folder / "ca.crt"), token_file=token_file)


def read_kubeconfig(path: Path) -> Credentials:
    """The current context of a kubeconfig. Raises CredentialsError when a part of it is missing."""
    config = yaml.safe_load(path.read_text())
    context = _named(config, "contexts", config.get("current-context"), path)["context"]
    cluster = _named(config, "clusters", context["cluster"], path)["cluster"]
    user = _named(config, "users", context["user"], path).get("user") or {}
    if "exec" in user or "auth-provider" in user:
        raise CredentialsError(f"{path}: credential plugins are not supported; use a token or a client certificate")
    server = str(cluster["server"])
    context_of_tls = _ssl_context(cluster, user, path) if server.startswith("https") else None
    token_file = path.parent / user["tokenFile"] if "tokenFile" in user else None
    return Credentials(server=server, ssl_context=context_of_tls, token=user.get("token"), token_file=token_file)


def _named(config: dict[str, Any], kind: str, name: str | None, path: Path) -> dict[str, Any]:
    for entry in config.get(kind) or []:
        if entry["name"] == name:
            return dict(entry)
    raise CredentialsError(f"{path}: {kind} has no entry named {name!r}")


def _ssl_context(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext:
    ca_data = cluster.get("certificate-authority-data")
    ca_file = cluster.get("certificate-authority")
    context = ssl.create_default_context(
        cafile=path.parent / ca_file if ca_file else None, cadata=base64.b64decode(ca_data).decode() if ca_data else None
    )
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if "client-certificate" in user:
        context.load_cert_chain(path.parent / user["client-certificate"], path.parent / user["client-key"])
    elif "client-certificate-data" in user:
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # ssl reads certificates from files only
            file.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
            file.flush()
            context.load_cert_chain(file.name)
    return context
