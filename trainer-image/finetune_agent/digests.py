"""Digests of inputs: SHA-256 over sorted (relative name, content), equal wherever the bytes came from. Reads, never fetches."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from finetune_agent.stores import CHUNK_BYTES

# What makes a model: weights, configuration, tokenizer. Other formats of the same weights are neither fetched nor hashed.
MODEL_FILES = ("*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt", "*.jinja", "additional_chat_templates/*")
_MARKER = ".finetune-complete.json"


class InputChanged(Exception):
    """An object changed while it was read: read it again."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """An input on this machine; `revision` is the hub's commit."""

    path: Path
    sha256: str
    revision: str | None = None


def is_model_file(name: str) -> bool:
    return (
        not name.startswith(".")
        and any(fnmatch(name, pattern) for pattern in MODEL_FILES)
        and ("/" not in name or "chat_templates" in name)
    )


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
    marker = folder / _MARKER
    if not marker.exists():
        return None
    known = json.loads(marker.read_text())
    if known["source"] != source or not Path(known["path"]).exists():
        return None
    return Fetched(path=Path(known["path"]), sha256=known["sha256"], revision=known["revision"])


def write_marker(folder: Path, source: str, fetched: Fetched) -> None:
    known = {"source": source, "path": str(fetched.path), "sha256": fetched.sha256, "revision": fetched.revision}
    unfinished = folder / f"{_MARKER}.unfinished"
    unfinished.write_text(json.dumps(known))
    unfinished.replace(folder / _MARKER)
