"""The two images of the product, built from its own Dockerfiles, and the pause image that holds a pod's namespaces.

An image's tag is the hash of all that goes into it: what has not changed is neither built nor copied.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import debian
from e2e.harness.buildah import Buildah
from e2e.harness.containerd import PAUSE_IMAGE
from e2e.harness.home import REPOSITORY, Home
from e2e.harness.image_store import ImageStore
from e2e.harness.oci_layout import OciLayout
from e2e.harness.shell import phase

# "localhost" as the registry: a short name would be completed by the name of a real one.
REGISTRY = "localhost"
PAUSE_DOCKERFILE = 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n'
ROOT_DOCKERFILE = "FROM scratch\nADD {archive} /\n"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one image is made of, as paths in the repository."""

    name: str
    dockerfile: str
    sources: tuple[str, ...]

    def tag(self) -> str:
        inputs = [REPOSITORY / path for path in (self.dockerfile, ".dockerignore", "pyproject.toml", ".ci/constraints.txt")]
        files = [*inputs, *(file for source in self.sources for file in _source_files(REPOSITORY / source))]
        return f"{REGISTRY}/{self.name}:{_hash_files(files)}"


OPERATOR = Recipe(
    name="finetune-operator",
    dockerfile="operator/Dockerfile",
    sources=("operator/finetune_operator", "trainer-image/finetune_contract"),
)
TRAINER = Recipe(
    name="finetune-trainer",
    dockerfile="trainer-image/Dockerfile",
    sources=("trainer-image/finetune_contract", "trainer-image/finetune_trainer", "trainer-image/finetune_agent"),
)


@dataclass(frozen=True, kw_only=True)
class Images:
    """Names as a pod's spec has them, NAME:TAG."""

    operator: str
    trainer: str


@dataclass(frozen=True)
class ImageBuilder:
    home: Home

    @property
    def layout(self) -> OciLayout:
        return OciLayout(self.home.images / "layout")

    def ensure(self) -> Images:
        """Build what changed and put it where nodes start from."""
        self.ensure_pause()
        images = Images(operator=self.ensure_built(OPERATOR), trainer=self.ensure_built(TRAINER))
        names = (PAUSE_IMAGE, images.operator, images.trainer)
        ImageStore(self.home).update(self.layout, names)
        self.layout.keep_only(frozenset(names))
        return images

    def ensure_built(self, recipe: Recipe) -> str:
        name = recipe.tag()
        if name in self.layout.names():
            return name
        base = self.ensure_root()
        with phase(f"build of the image {recipe.name}"):
            self._buildah.build(REPOSITORY / recipe.dockerfile, context=REPOSITORY, name=name, base=base)
        with phase(f"copy of the image {recipe.name}"):
            self._buildah.push(name, self.layout.folder)
        return name

    def ensure_root(self) -> str:
        """The image that ours stand on."""
        name = f"{REGISTRY}/finetune-root:{debian.fingerprint()}"
        if not self._buildah.has(name):
            archive = debian.ensure_root_archive(self.home.images / "debian")
            self._build_from_text(ROOT_DOCKERFILE.format(archive=archive.name), context=archive.parent, name=name)
        return name

    def ensure_pause(self) -> None:
        if PAUSE_IMAGE not in self.layout.names():
            self._build_from_text(PAUSE_DOCKERFILE, context=self.home.bin, name=PAUSE_IMAGE)
            self._buildah.push(PAUSE_IMAGE, self.layout.folder)

    def describe(self, images: Images) -> str:
        """One line an image: its size and what of it is not the root file system."""
        lines = []
        for name in (images.operator, images.trainer):
            whole, own = self.layout.size_bytes(name), self.layout.size_bytes(name, without_lowest=True)
            lines.append(f"{name} {whole / 1e6:.0f} MB, {own / 1e6:.0f} MB above its base\n")
        return "".join(lines)

    def archive(self, name: str) -> Path:
        """An image as one tar, for clusters that take such."""
        archive = self.home.images / "archive.tar"
        self._buildah.write_archive(name, archive)
        return archive

    @property
    def _buildah(self) -> Buildah:
        return Buildah(self.home.images / "buildah")

    def _build_from_text(self, text: str, *, context: Path, name: str) -> None:
        dockerfile = self.home.images / "Dockerfile"
        dockerfile.parent.mkdir(parents=True, exist_ok=True)
        dockerfile.write_text(text)
        self._buildah.build(dockerfile, context=context, name=name)


def _source_files(folder: Path) -> Iterable[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)


def _hash_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256(debian.fingerprint().encode())
    for file in files:
        digest.update(f"{file.relative_to(REPOSITORY)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]
