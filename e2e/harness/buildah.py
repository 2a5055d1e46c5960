"""Building images from Dockerfiles with buildah, in a storage of our own that keeps every layer as a cache.

Works without a daemon and without user namespaces. What the host needs to reach its package index is mounted for the time of a build and is
never part of an image.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.shell import run

MIN_FREE_BYTES = 20 * 2**30
HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
HOST_PIP_SETTINGS = Path("/etc/pip.conf")
UV_SETTINGS = "system-certs = true\n"


@dataclass(frozen=True)
class Buildah:
    folder: Path

    def build(self, dockerfile: Path, *, context: Path, name: str, base: str | None = None) -> None:
        """Build `name`; every layer that did not change comes from the cache."""
        self._drop_cache_if_disk_is_short()
        flags: list[str | Path] = [
            "--layers",
            "--pull-never",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--file",
            dockerfile,
            "--tag",
            name,
        ]
        chosen = ["--build-arg", f"BASE={base}"] if base else []
        self._run("buildah", "bud", *self._policy(), *flags, *chosen, *self._host_mounts(), context)

    def has(self, name: str) -> bool:
        return name in self._run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}").split()

    def push(self, name: str, layout: Path) -> None:
        """Copy an image into an OCI layout folder, uncompressed; layers that are there already are not written again."""
        # Skopeo, because buildah compresses what goes into a layout: minutes for gigabytes of libraries.
        copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers")
        self._run(*copy, f"containers-storage:{name}", f"oci:{layout}:{name}")

    def write_archive(self, name: str, archive: Path) -> None:
        """One tar in the form that `docker load` and kind take."""
        archive.unlink(missing_ok=True)
        self._run("skopeo", "--insecure-policy", "copy", "--quiet", f"containers-storage:{name}", f"docker-archive:{archive}:{name}")

    def _run(self, *command: str | Path) -> str:
        scratch = self.folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        storage = {"driver": "overlay", "graphroot": str(self.folder / "graph"), "runroot": str(self.folder / "run")}
        configuration = "[storage]\n" + "".join(f'{key} = "{value}"\n' for key, value in storage.items())
        (self.folder / "storage.conf").write_text(configuration)
        # No registry is named anywhere: an image that is not here is an error, not a download.
        (self.folder / "registries.conf").write_text("unqualified-search-registries = []\n")
        environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
            "TMPDIR": str(scratch),
        }
        return run("unshare", "--mount", *command, env=environment)

    def _policy(self) -> tuple[str, ...]:
        file = self.folder / "policy.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        return ("--signature-policy", str(file))

    def _host_mounts(self) -> list[str]:
        uv_settings = self.folder / "uv.toml"
        uv_settings.write_text(UV_SETTINGS)
        mounts = [(uv_settings, Path("/etc/uv/uv.toml")), (HOST_CERTIFICATES, HOST_CERTIFICATES), (HOST_PIP_SETTINGS, HOST_PIP_SETTINGS)]
        return [part for source, target in mounts if source.exists() for part in ("--volume", f"{source}:{target}:ro")]

    def _drop_cache_if_disk_is_short(self) -> None:
        # Each set of pinned dependencies leaves 11 GB of layers behind; nothing else ever removes them.
        if self.folder.exists() and shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
            shutil.rmtree(self.folder / "graph", ignore_errors=True)
