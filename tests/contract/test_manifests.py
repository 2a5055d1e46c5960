"""Manifests lie in a tenant's bucket: whatever stands there is one of ours or a ValueError, and names its weights and its keys."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.builders.fuzz import JSON, fuzz, replaced

from finetune_contract.bounds import MAX_FORMATION, MAX_STEP
from finetune_contract.commits import (
    ADAPTER_WEIGHTS_NAME,
    CommitManifest,
    OutputManifest,
    manifest_key,
    parse_manifest,
    parse_manifest_key,
    render_manifest,
)
from finetune_contract.state import StateId

DIGEST = "0" * 64
RECORD: dict[str, Any] = {
    "step": 3,
    "total_steps": 9,
    "rows_consumed": 12,
    "tokens_total": 99,
    "sample_digest": DIGEST,
    "num_parameters": 64,
    "config_digest": DIGEST,
    "inputs": {"model": DIGEST, "dataset": DIGEST},
    "numerics": {"torch_version": "2.15", "device": "cpu", "threads": 1, "attention": "plain", "pack_tokens": 96},
}
COMMIT: dict[str, Any] = {
    "layout_version": 1,
    "state": {"formation": 2, "step": 3},
    "num_bytes": 768,
    "crc32": 7,
    "record": RECORD,
}
OUTPUT: dict[str, Any] = {
    "job_uid": "uid",
    "formation": 2,
    "step": 9,
    "base_model": "file:///model",
    "base_revision": None,
    "config_digest": DIGEST,
    "inputs": None,
    "files": [{"name": ADAPTER_WEIGHTS_NAME, "num_bytes": 4, "sha256": DIGEST}],
    "first_loss": 1.0,
    "last_loss": 0.5,
    "eval_loss": None,
}


@st.composite
def mutated(draw: st.DrawFn, whole: dict[str, Any]) -> str:
    return json.dumps(draw(replaced(json.loads(json.dumps(whole)))))


def test_the_ones_below_are_manifests() -> None:
    manifest = CommitManifest.model_validate(COMMIT)
    assert parse_manifest(render_manifest(manifest)) == manifest
    assert OutputManifest.model_validate(OUTPUT).weights.num_bytes == 4


@fuzz(200)
@given(st.one_of(mutated(COMMIT), JSON.map(json.dumps)))
def test_any_sealed_json_is_a_commit_with_a_key_or_a_value_error(text: str) -> None:
    rest = text.encode()[1:]
    try:
        manifest = parse_manifest(_sealed(rest))
    except ValueError:
        return
    assert parse_manifest_key(manifest_key("uid", manifest.state)) == manifest.state
    assert parse_manifest(render_manifest(manifest)) == manifest


def test_the_greatest_state_has_a_key() -> None:
    greatest = StateId(formation=MAX_FORMATION, step=MAX_STEP)
    assert parse_manifest_key(manifest_key("uid", greatest)) == greatest
    for beyond in ({"formation": MAX_FORMATION + 1, "step": 1}, {"formation": 1, "step": MAX_STEP + 1}):
        with pytest.raises(ValidationError):
            StateId.model_validate(beyond)


@fuzz(200)
@given(st.binary(max_size=300))
def test_bytes_without_their_seal_are_no_commit(body: bytes) -> None:
    with pytest.raises(ValueError, match="seal"):
        parse_manifest(body)


@fuzz(200)
@given(st.one_of(mutated(OUTPUT), JSON.map(json.dumps), st.binary(max_size=200)))
def test_anything_beside_an_adapter_is_a_manifest_with_weights_or_none_of_ours(content: str | bytes) -> None:
    try:
        manifest = OutputManifest.model_validate_json(content)
    except ValidationError:
        return
    assert manifest.weights.name == ADAPTER_WEIGHTS_NAME
    assert manifest.num_bytes >= manifest.weights.num_bytes


@pytest.mark.parametrize("files", [[], [{"name": "README.md", "num_bytes": 1, "sha256": DIGEST}]])
def test_a_manifest_without_weights_is_none_of_ours(files: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match=ADAPTER_WEIGHTS_NAME):
        OutputManifest.model_validate(OUTPUT | {"files": files})


def _sealed(rest: bytes) -> bytes:
    return b'{"seal":"%08x",' % zlib.crc32(rest) + rest
