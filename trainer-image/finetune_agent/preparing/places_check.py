"""Checks, before any byte is fetched, that results can be written where the user wants them, and that they are not there already."""

import secrets
from random import Random

from finetune_agent.settings import Settings
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import ObjectStore, PutResult, StoreRefused
from finetune_agent.stores.open_store import open_store
from finetune_agent.uploading.publish import read_output_manifest, render_output
from finetune_contract.config import JobConfig
from finetune_contract.places import parse_place
from finetune_contract.reports import Output, Warned


def check_output_place(config: JobConfig, credentials: CredentialFiles, random: Random, settings: Settings) -> Output | None:
    """The output if it is complete already: this job's own, or an equal one that is to be skipped. Raises StoreRefused."""
    store = open_store(parse_place(config.output.uri), storage=config.storage, credentials=credentials, random=random, reach=settings.reach)
    present = read_output_manifest(store)
    if present is not None and present.job_uid == config.job.uid:
        return render_output(config, present, already_present=False)
    if present is not None and config.output.if_exists != "Overwrite":
        is_equal = present.config_digest in config.trajectory_digests()
        if is_equal and config.output.if_exists == "Skip":
            return render_output(config, present, already_present=True)
        what = "an adapter of the same configuration" if is_equal else "an adapter of another configuration"
        advice = "choose another uri, or set output.ifExists: Overwrite" + (" or Skip" if is_equal else "")
        raise StoreRefused(f"{config.output.uri} already holds {what} (job uid {present.job_uid}); {advice}")
    key = f".finetune-probe-{settings.member_uid}-{secrets.token_hex(4)}"
    store.put(key, b"probe")
    store.delete(key)
    return None


def check_checkpoint_place(config: JobConfig, credentials: CredentialFiles, random: Random, settings: Settings) -> Warned | None:
    """A warning if the store ignores conditional writes. Raises StoreRefused if it cannot be written."""
    store = open_store(
        parse_place(config.checkpoint.uri), storage=config.storage, credentials=credentials, random=random, reach=settings.reach
    )
    key = f"{config.job.uid}/probe/{settings.member_uid}-{secrets.token_hex(4)}"
    try:
        return _probe(store, key, config.checkpoint.uri)
    finally:
        store.delete(key)


def _probe(store: ObjectStore, key: str, uri: str) -> Warned | None:
    store.put(key, b"probe", if_absent=True)
    if store.get(key) != b"probe":
        raise StoreRefused(f"{uri} gave back other bytes than were written; wanted a store that reads what was written")
    if store.put(key, b"probe", if_absent=True) is PutResult.ALREADY_THERE:
        return None
    message = (
        f"{uri} ignores If-None-Match: two formations at once could write one manifest; formation numbers in the keys still keep them apart"
    )
    return Warned(reason="ConditionalWritesIgnored", message=message)
