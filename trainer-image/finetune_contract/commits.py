"""Keys and manifest of a commit. A commit is what has a manifest that verifies; there is no pointer object.

<checkpoint.uri>/<job uid>/state/f<formation:06d>-<step:09d>.bin     flat fp32 (adapter, m, v), immutable
<checkpoint.uri>/<job uid>/commit/f<formation:06d>-<step:09d>.json   the manifest, written last, If-None-Match: *

The manifest is JSON whose first field seals the bytes after it: a flipped bit in the run record must not become another position.
"""

import re
import zlib
from typing import Annotated

from pydantic import Field, field_validator

from finetune_contract.bounds import Count, Digest, FormationNumber, Name, Place, RealOrNone, Revision, Step, Uid, Version
from finetune_contract.state import InputDigests, RunRecord, StateId
from finetune_contract.values import Value

LAYOUT_VERSION = 1
OUTPUT_MANIFEST_NAME = "finetune-manifest.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
_NAME = re.compile(r"f([0-9]{6,9})-([0-9]{9,12})\.json$")


def state_key(job_uid: str, state: StateId) -> str:
    return f"{job_uid}/state/f{state.formation:06d}-{state.step:09d}.bin"


def manifest_prefix(job_uid: str) -> str:
    return f"{job_uid}/commit/"


def manifest_key(job_uid: str, state: StateId) -> str:
    return f"{manifest_prefix(job_uid)}f{state.formation:06d}-{state.step:09d}.json"


def parse_manifest_key(key: str) -> StateId | None:
    """The state that a manifest key names; None for any other object."""
    found = _NAME.search(key)
    return StateId(formation=int(found[1]), step=int(found[2])) if found else None


class CommitManifest(Value):
    """`crc32` is zlib's over the whole state object of `num_bytes` bytes."""

    layout_version: Version
    state: StateId
    num_bytes: Count
    crc32: Annotated[int, Field(ge=0, lt=2**32)]
    record: RunRecord


def render_manifest(manifest: CommitManifest) -> bytes:
    rest = manifest.model_dump_json().encode()[1:]
    return _seal(rest) + rest


def parse_manifest(body: bytes) -> CommitManifest:
    """Raises ValueError for what is no manifest, and for one that is not as it was written."""
    seal, rest = body[:_SEAL_CHARS], body[_SEAL_CHARS:]
    if seal != _seal(rest):
        raise ValueError("its seal does not fit its bytes")
    return CommitManifest.model_validate_json(b"{" + rest)


def _seal(rest: bytes) -> bytes:
    return b'{"seal":"%08x",' % zlib.crc32(rest)


_SEAL_CHARS = len(_seal(b""))


class OutputFile(Value):
    """One file of the published adapter."""

    name: Name
    num_bytes: Count
    sha256: Digest


class OutputManifest(Value):
    """`finetune-manifest.json` beside the adapter, written last: the adapter is complete when it is there."""

    job_uid: Uid
    formation: FormationNumber
    step: Step
    base_model: Place
    base_revision: Revision | None
    config_digest: Digest
    inputs: InputDigests | None
    files: tuple[OutputFile, ...] = Field(max_length=10_000)
    first_loss: RealOrNone
    last_loss: RealOrNone
    eval_loss: RealOrNone
    sample_digest: Digest | None = None  # chains the row numbers of all steps: equal digests = the same rows in the same steps

    @field_validator("files")
    @classmethod
    def _has_weights(cls, files: tuple[OutputFile, ...]) -> tuple[OutputFile, ...]:
        if all(file.name != ADAPTER_WEIGHTS_NAME for file in files):
            raise ValueError(f"there is no file {ADAPTER_WEIGHTS_NAME}")
        return files

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def weights(self) -> OutputFile:
        return next(file for file in self.files if file.name == ADAPTER_WEIGHTS_NAME)
