"""Digests of inputs: SHA-256 over sorted (relative name, content), equal wherever the bytes came from. Reads, never fetches."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_agent.stores.object_store import CHUNK_BYTES

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
