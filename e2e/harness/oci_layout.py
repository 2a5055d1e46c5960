"""A folder in the OCI image layout: which blobs an image has, a tar of only those that a reader lacks, and removal of the rest.

It builds nothing and unpacks nothing. https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFERENCE = "org.opencontainers.image.ref.name"
# containerd takes the whole name of an image from this one; the reference alone may be a tag only.
IMAGE_NAME = "io.containerd.image.name"
EMPTY_INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": []}


@dataclass(frozen=True)
class OciLayout:
    folder: Path

    def names(self) -> frozenset[str]:
        return frozenset(entry["annotations"][REFERENCE] for entry in self._index()["manifests"])

    def layers(self, name: str) -> tuple[str, ...]:
        """Digests of an image's layers, lowest first."""
        return tuple(layer["digest"] for layer in self._manifest(name)["layers"])

    def size_bytes(self, name: str, *, without_lowest: bool = False) -> int:
        """Unpacked size of an image's layers, of all or without the lowest, on which it was built."""
        return sum(layer["size"] for layer in self._manifest(name)["layers"][1 if without_lowest else 0 :])

    def write_archive(self, name: str, archive: Path, *, without: frozenset[str]) -> None:
        """A tar of one image that lacks the layers in `without`."""
        entry = self._entry(name)
        index = {**EMPTY_INDEX, "manifests": [{**entry, "annotations": {REFERENCE: name, IMAGE_NAME: name}}]}
        manifest = self._manifest(name)
        wanted = [layer["digest"] for layer in manifest["layers"] if layer["digest"] not in without]
        with tarfile.open(archive, "w") as tar:
            _add_text(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
            _add_text(tar, "index.json", json.dumps(index))
            for digest in dict.fromkeys([entry["digest"], manifest["config"]["digest"], *wanted]):
                tar.add(self._blob(digest), arcname=self._blob(digest).relative_to(self.folder))

    def keep_only(self, names: frozenset[str]) -> None:
        """Forget all other images and delete the blobs that nobody needs any more."""
        index = self._index()
        index["manifests"] = [entry for entry in index["manifests"] if entry["annotations"][REFERENCE] in names]
        (self.folder / "index.json").write_text(json.dumps(index))
        needed: set[str] = set()
        for name in self.names():
            manifest = self._manifest(name)
            needed |= {self._entry(name)["digest"], manifest["config"]["digest"], *self.layers(name)}
        for blob in (self.folder / "blobs" / "sha256").iterdir():
            if f"sha256:{blob.name}" not in needed:
                blob.unlink()

    def _index(self) -> dict[str, Any]:
        file = self.folder / "index.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else dict(EMPTY_INDEX)
        return found

    def _entry(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(entry for entry in self._index()["manifests"] if entry["annotations"][REFERENCE] == name)
        return found

    def _manifest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._blob(self._entry(name)["digest"]).read_text())
        return found

    def _blob(self, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        return self.folder / "blobs" / algorithm / value


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
