"""The serving certificate of this replica: signed by our authority, kept in files because ssl reads certificates from files."""

import os
import ssl
from datetime import datetime
from pathlib import Path

from finetune_operator.kube.certificates import Authority, KeyPair, is_renewal_due, make_serving


class ServingCertificate:
    """`renew` writes new files and reloads `ssl_context` in place, so that open servers use them for the next connection."""

    def __init__(self, folder: Path, dns_names: tuple[str, ...]) -> None:
        self._dns_names = dns_names
        self.certificate_file, self.key_file = folder / "tls.crt", folder / "tls.key"
        self.ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._pair: KeyPair | None = None
        self._signed_by: str | None = None

    def renew(self, authority: Authority, now: datetime) -> bool:
        """True when there is a new certificate: none yet, another authority signs, or the old one ends soon.

        Raises OSError when the files cannot be written: the certificate before stays whole and is served on.
        """
        if self._pair is not None and self._signed_by == authority.current.certificate and not is_renewal_due(self._pair, now):
            return False
        pair = make_serving(authority.current, self._dns_names, now)
        new = [_write_secret(path.with_name(f"{path.name}.new"), text) for path, text in self._files(pair)]
        certificate, key = new
        self.ssl_context.load_cert_chain(certificate, key)
        for path, (old, _) in zip(new, self._files(pair), strict=True):
            os.replace(path, old)
        self._pair, self._signed_by = pair, authority.current.certificate
        return True

    @property
    def is_made(self) -> bool:
        """There is one to serve with, though perhaps not the newest."""
        return self._pair is not None

    def _files(self, pair: KeyPair) -> tuple[tuple[Path, str], tuple[Path, str]]:
        return (self.certificate_file, pair.certificate), (self.key_file, pair.key)


def _write_secret(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path
