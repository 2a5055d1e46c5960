"""One spelling outside: every key of the resource is camelCase, also of values that the channel spells otherwise."""

import json
import re

from tests.builders.observed import INPUTS, a_job, a_recovery, over_status, training_status

from finetune_operator.api.crd import custom_resource_definition
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import PinnedInputs, PinnedOverrides

CAMEL = re.compile(r"[a-z][a-zA-Z0-9]*$")


def keys_of(node) -> set[str]:
    if isinstance(node, list | tuple):
        return {key for child in node for key in keys_of(child)}
    if not isinstance(node, dict):
        return set()
    return set(node) | {key for child in node.values() for key in keys_of(child)}


def properties_of(schema) -> set[str]:
    children = {**schema.get("properties", {})}
    found = set(children)
    if "items" in schema:
        children["[]"] = schema["items"]
    return found.union(*(properties_of(child) for child in children.values()))


def test_every_property_of_the_resource_is_camel_case() -> None:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert {name for name in properties_of(schema) if not CAMEL.match(name)} == set()


def test_a_written_status_is_camel_case_and_is_read_back_as_it_was() -> None:
    revision = PinnedInputs.of(INPUTS.model_copy(update={"model_revision": "abc"}))
    overrides = PinnedOverrides(pack_tokens=8, gradient_checkpointing=True)
    pinned = training_status().pinned.model_copy(update={"inputs": revision, "overrides": overrides})
    status = over_status(pinned=pinned, recoveries=(a_recovery(),))
    written = json.loads(status.model_dump_json(by_alias=True))
    assert {name for name in keys_of(written) if not CAMEL.match(name)} == set()
    job = json.loads(a_job().model_dump_json(by_alias=True)) | {"status": written}
    assert FineTuneJob.model_validate(job).status == status
    assert (revision.digests().model_revision, overrides.overrides().pack_tokens) == ("abc", 8)
