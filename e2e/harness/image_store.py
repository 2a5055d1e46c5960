"""The containerd folder that every node starts as a hard-linked copy of, so that gigabytes are unpacked once and not once a node or run.

Layers that it has unpacked are never copied to it again: a change of our code costs its own small layer.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import cgroups
from e2e.harness.containerd import Containerd
from e2e.harness.home import Home
from e2e.harness.oci_layout import OciLayout
from e2e.harness.processes import Processes
from e2e.harness.shell import phase

GROUP = "images"


@dataclass(frozen=True)
class ImageStore:
    home: Home

    @property
    def folder(self) -> Path:
        return self.home.images / "store"

    def update(self, layout: OciLayout, names: Sequence[str]) -> None:
        """Make the store hold exactly these images of the layout."""
        layers = {layer for name in names for layer in layout.layers(name)}
        contents = {"images": sorted(names), "layers": sorted(layers)}
        if self._contents() == contents:
            return
        with phase("image store"):
            self._import(layout, names, unpacked=self.layers())
        self._record.write_text(json.dumps(contents))

    def layers(self) -> frozenset[str]:
        """Digests of the layers that a node which starts from here has."""
        return frozenset(self._contents()["layers"])

    def clear(self) -> None:
        self._record.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _import(self, layout: OciLayout, names: Sequence[str], *, unpacked: frozenset[str]) -> None:
        if not unpacked:
            self.clear()
        work = self.home.images / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        processes = Processes(work, self.home.bin)
        cgroups.create(GROUP)
        containerd = Containerd(processes=processes, name="store", group=GROUP, root=self.folder, folder=work)
        try:
            containerd.start()
            for name in sorted(set(names) - containerd.image_names()):
                archive = work / "image.tar"
                layout.write_archive(name, archive, without=unpacked)
                containerd.import_archive(archive)
                archive.unlink()
            containerd.remove_images(containerd.image_names() - set(names))
        finally:
            containerd.stop()
            cgroups.remove(GROUP)
        shutil.rmtree(work)

    def _contents(self) -> dict[str, list[str]]:
        nothing: dict[str, list[str]] = {"images": [], "layers": []}
        found: dict[str, list[str]] = json.loads(self._record.read_text()) if self._record.exists() else nothing
        return found

    @property
    def _record(self) -> Path:
        return self.home.images / "store.json"
