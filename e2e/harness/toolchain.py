"""Every program that the cluster is made of, installed or built once and then found in under a second.

Debian's packages come by apt-get; what Debian has not, or has too old, is built by Go out of modules. Nothing is downloaded in binary form.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.home import Home
from e2e.harness.shell import phase, run

SOURCES = Path(__file__).resolve().parents[1] / "toolchain"
KUBERNETES_VERSION = "v1.37.1"
SMALL = "-s -w"
_STAMP = "k8s.io/component-base/version"
# Without these the API server reports v0.0.0 and clients refuse it.
_KUBERNETES_FLAGS = f"{SMALL} -X {_STAMP}.gitVersion={KUBERNETES_VERSION} -X {_STAMP}.gitMajor=1 -X {_STAMP}.gitMinor=37"

# A program that shows that a package is there, and the package. All are in Debian's main section.
DEBIAN_PACKAGES = {
    "/usr/sbin/runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/sbin/nft": "nftables",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/ethtool": "ethtool",
    "/usr/bin/nsenter": "util-linux",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/skopeo": "skopeo",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "/usr/bin/prometheus": "prometheus",
}


@dataclass(frozen=True, kw_only=True)
class GoProgram:
    """Commands that are built together. `module` is a folder of toolchain/; None means `packages` carry their own version."""

    name: str
    packages: tuple[str, ...]
    module: str | None = None
    linker_flags: str = SMALL
    flags: tuple[str, ...] = ()

    @property
    def binaries(self) -> tuple[str, ...]:
        return tuple(self.name if package == "." else package.split("@")[0].rsplit("/", 1)[-1] for package in self.packages)

    def fingerprint(self) -> str:
        """Changes when anything that decides what would be built changes."""
        digest = hashlib.sha256(repr(self).encode())
        for file in sorted((SOURCES / self.module).iterdir()) if self.module else ():
            digest.update(file.read_bytes())
        return digest.hexdigest()


CONTAINERD = "github.com/containerd/containerd/v2/cmd"
PROGRAMS = (
    GoProgram(name="kubernetes", packages=(".",), module="kubernetes", linker_flags=_KUBERNETES_FLAGS, flags=("-p", "2")),
    GoProgram(
        name="containerd",
        packages=(f"{CONTAINERD}/containerd", f"{CONTAINERD}/containerd-shim-runc-v2", f"{CONTAINERD}/ctr"),
        module="containerd",
        flags=("-p", "2", "-tags", "no_btrfs,no_zfs,no_devmapper"),
    ),
    GoProgram(name="pause", packages=(".",), module="pause"),
    GoProgram(name="coredns", packages=("github.com/coredns/coredns@v1.15.0",)),
    GoProgram(name="versitygw", packages=("github.com/versity/versitygw/cmd/versitygw@v1.8.0",)),
    GoProgram(name="helm", packages=("helm.sh/helm/v4/cmd/helm@v4.3.1",)),
)
KUBECTL = GoProgram(
    name="kubectl", packages=("k8s.io/kubernetes/cmd/kubectl",), module="kubernetes", linker_flags=_KUBERNETES_FLAGS, flags=("-p", "2")
)


def ensure_toolchain(home: Home) -> None:
    """Install and build what is missing or out of date. Needs root for apt-get only."""
    ensure_packages(tuple(DEBIAN_PACKAGES.items()))
    for program in PROGRAMS:
        ensure_program(home, program)
    if shutil.which("kubectl") is None:
        ensure_program(home, KUBECTL)


def ensure_helm(home: Home) -> Path:
    """Helm alone, for tests of the chart that need no cluster."""
    helm = next(program for program in PROGRAMS if program.name == "helm")
    ensure_program(home, helm)
    return home.bin / "helm"


def kubectl(home: Home) -> str:
    """The machine's own kubectl, else the one that was built."""
    return shutil.which("kubectl") or str(home.bin / "kubectl")


def ensure_packages(packages: tuple[tuple[str, str], ...]) -> None:
    missing = [package for program, package in packages if not Path(program).exists()]
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with phase(f"apt-get install {' '.join(missing)}"):
        run("apt-get", "update", "-qq", env=environment)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def ensure_program(home: Home, program: GoProgram) -> None:
    stamp, fingerprint = home.bin / f".{program.name}.stamp", program.fingerprint()
    is_current = stamp.exists() and stamp.read_text() == fingerprint
    if is_current and all((home.bin / binary).exists() for binary in program.binaries):
        return
    home.bin.mkdir(parents=True, exist_ok=True)
    with phase(f"build of {program.name}"):
        build(home, program)
    stamp.write_text(fingerprint)


def build(home: Home, program: GoProgram) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(home.bin)}
    flags = ["-trimpath", *program.flags, "-ldflags", program.linker_flags]
    if program.module is None:
        run("go", "install", *flags, *program.packages, env=environment)
        return
    # A folder as output keeps the commands' own names; the package "." would take that of its module.
    output = f"{home.bin / program.name}" if program.packages == (".",) else f"{home.bin}/"
    run("go", "build", *flags, "-o", output, *program.packages, env=environment, cwd=SOURCES / program.module)
