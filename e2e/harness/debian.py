"""The root file system that our images stand on where no registry can be asked for one: Debian with Python, made by mmdebstrap."""

import hashlib
from pathlib import Path

from e2e.harness.shell import phase, run

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
UNUSED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")


def fingerprint() -> str:
    return hashlib.sha256(repr((SUITE, PACKAGES, UNUSED)).encode()).hexdigest()[:12]


def ensure_root_archive(folder: Path) -> Path:
    """A tar of the root file system, made once."""
    archive = folder / f"debian-{fingerprint()}.tar"
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "debian.partial.tar"
    excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED]
    flags = ["--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", *excludes]
    with phase(f"root file system of Debian {SUITE}"):
        run("unshare", "--mount", "mmdebstrap", *flags, SUITE, partial)
    partial.rename(archive)
    return archive
