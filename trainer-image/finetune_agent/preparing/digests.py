"""Digests of inputs: SHA-256 over sorted (relative name, content), equal wherever the bytes came from. Reads, never fetches."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_agent.stores.object_store import CHUNK_BYTES

# What makes a model: weights, configuration, tokenizer. Other formats of the same weights are neither fetched, hashed nor opened.
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja")
_MODEL_TEXTS = frozenset({"merges.txt", "vocab.txt", "tokenizer.model"})
_TEMPLATES = "additional_chat_templates/"
OWN_PREFIX = ".finetune-"  # of what this program writes beside inputs
_MARKER = f"{OWN_PREFIX}complete.json"


class InputChanged(Exception):
    """An object changed while it was read: read it again."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """An input on this machine; `revision` is the hub's commit. `files` are those of rows, in order; `path` is the first or the folder."""

    path: Path
    sha256: str
    revision: str | None = None
    files: tuple[Path, ...] = ()


def is_model_file(name: str) -> bool:
    """Whether the file of this relative name makes the model. No other name is ever joined to a folder."""
    inside, _, template = name.rpartition(_TEMPLATES)
    if inside == "" and template != name:
        return template.endswith(".jinja") and _is_plain(template)
    return _is_plain(name) and (name.endswith(_MODEL_SUFFIXES) or name in _MODEL_TEXTS)


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model in a folder, by relative name, sorted; also links whose target is not there."""
    paths = (*folder.glob("*"), *(folder / _TEMPLATES).glob("*"))
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {name: path for name, path in found.items() if is_model_file(name)}


def _is_plain(name: str) -> bool:
    return not name.startswith(".") and "/" not in name and "\\" not in name and name.isprintable()


def combine(digests: Mapping[str, str]) -> str:
    """One digest of many files, given name -> SHA-256 of the content."""
    listing = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_marker(folder: Path, source: str) -> Fetched | None:
    """What was fetched completely from `source` into `folder` before; None if it was not."""
    try:
        known = json.loads((folder / _MARKER).read_text())
        paths = [Path(known["path"]), *map(Path, known["files"])]
        if known["source"] != source or not all(path.exists() for path in paths):
            return None
        return Fetched(path=paths[0], sha256=known["sha256"], revision=known["revision"], files=tuple(paths[1:]))
    except (OSError, ValueError, KeyError, TypeError):  # none, or one of another version of this program
        return None


def write_marker(folder: Path, source: str, fetched: Fetched) -> None:
    known = {
        "source": source,
        "path": str(fetched.path),
        "files": [str(file) for file in fetched.files],
        "sha256": fetched.sha256,
        "revision": fetched.revision,
    }
    unfinished = folder / f"{_MARKER}.unfinished"
    unfinished.write_text(json.dumps(known))
    unfinished.replace(folder / _MARKER)
