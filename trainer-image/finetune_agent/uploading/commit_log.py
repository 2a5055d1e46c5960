"""Commits of one job in one store: write (state, then manifest), list, read with all checks, prune. Keys stand in the contract.

Knows nothing of slots, channels or retries. The newest commit is the greatest (formation, step), never a time or a pointer.
"""

import zlib
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_agent.stores.object_store import ObjectMissing, ObjectStore
from finetune_contract.commits import (
    LAYOUT_VERSION,
    CommitManifest,
    manifest_key,
    manifest_prefix,
    parse_manifest,
    parse_manifest_key,
    render_manifest,
    state_key,
)
from finetune_contract.plurals import counted
from finetune_contract.slots import Snapshot
from finetune_contract.state import InputDigests, StateId


class CommitInvalid(Exception):
    """A commit that cannot be resumed from; says which object and why."""


@dataclass(frozen=True, kw_only=True)
class CommitLog:
    """One of `config_digests` and, where known, `inputs` must match what a commit was made with."""

    store: ObjectStore
    job_uid: str
    config_digests: tuple[str, ...]

    def write(self, snapshot: Snapshot) -> str:
        """Returns the manifest's key. Writing the same state twice is harmless: the first manifest stays."""
        key = manifest_key(self.job_uid, snapshot.state_id)
        self.store.put(state_key(self.job_uid, snapshot.state_id), snapshot.state)
        manifest = CommitManifest(
            layout_version=LAYOUT_VERSION,
            state=snapshot.state_id,
            num_bytes=len(snapshot.state),
            crc32=snapshot.crc32,
            record=snapshot.record,
        )
        self.store.put(key, render_manifest(manifest), if_absent=True)
        return key

    def states(self) -> tuple[StateId, ...]:
        """All that have a manifest, newest first."""
        found = [parse_manifest_key(info.key) for info in self.store.list(manifest_prefix(self.job_uid))]
        return tuple(sorted((state for state in found if state is not None), key=lambda state: state.order, reverse=True))

    def read(self, state: StateId, inputs: InputDigests | None) -> Snapshot:
        """Raises CommitInvalid for a commit that is damaged, incomplete or of another trajectory."""
        manifest = self._read_manifest(state)
        key = state_key(self.job_uid, state)
        try:
            data = self.store.get(key)
        except ObjectMissing as error:
            raise CommitInvalid(f"{key} is missing") from error
        if len(data) != manifest.num_bytes:
            raise CommitInvalid(f"{key} has {counted(len(data), 'byte')}, its manifest says {manifest.num_bytes}")
        if zlib.crc32(data) != manifest.crc32:
            raise CommitInvalid(f"{key} is damaged: its CRC differs from the manifest's")
        if inputs is not None and manifest.record.inputs != inputs:
            raise CommitInvalid(f"{key} was trained from other model or data bytes than this job is pinned to")
        return Snapshot(state_id=state, record=manifest.record, state=data, crc32=manifest.crc32)

    def _read_manifest(self, state: StateId) -> CommitManifest:
        key = manifest_key(self.job_uid, state)
        try:
            manifest = parse_manifest(self.store.get(key))
        except ObjectMissing as error:
            raise CommitInvalid(f"{key} is missing") from error
        except ValueError as error:
            why = type(error).__name__ if isinstance(error, ValidationError) else error
            raise CommitInvalid(f"{key} is not a manifest: {why}") from error
        if manifest.layout_version != LAYOUT_VERSION or manifest.state != state:
            raise CommitInvalid(f"{key} has layout {manifest.layout_version} and state {manifest.state}, wanted {LAYOUT_VERSION}, {state}")
        if manifest.record.config_digest not in self.config_digests:
            raise CommitInvalid(f"{key} was trained with another configuration (digest {manifest.record.config_digest[:12]})")
        return manifest

    def prune(self, *, keep: int, spared: StateId | None) -> None:
        """Keep the newest `keep` and `spared`: manifest first, then state, so that no manifest ever lacks its state."""
        for state in self.states()[keep:]:
            if state != spared:
                self.store.delete(manifest_key(self.job_uid, state))
                self.store.delete(state_key(self.job_uid, state))
