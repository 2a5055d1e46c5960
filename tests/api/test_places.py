"""Places in the YAML: what is one, and where each kind may stand."""

import pytest

from finetune_contract.places import parse_place
from finetune_operator.api.rules import parse_job, validate, warnings

SPEC = {
    "model": {"uri": "hf://Qwen/Qwen3-8B"},
    "dataset": {"uri": "s3://data/rows.jsonl"},
    "checkpoint": {"uri": "s3://checkpoints/x"},
    "output": {"uri": "s3://adapters/x"},
}


def said(section: str, is_local: bool = False, **fields: str) -> list[str]:
    """What `finetune validate` says of the job with one section changed; locally the other places are folders."""
    spec = {name: {"uri": f"file:///{name}"} for name in SPEC} if is_local else SPEC
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "x"}}
    return [str(error) for error in validate({**document, "spec": {**spec, section: {**spec[section], **fields}}}, is_local=is_local)]


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("s3://bucket", "'s3://bucket' is incomplete: wanted s3://BUCKET/PATH"),
        ("hf://owner", "'hf://owner' is incomplete: wanted hf://OWNER/NAME"),
        ("configmap://rows", "'configmap://rows' is incomplete: wanted configmap://NAME/KEY"),
        ("configmap://rows/a/b", "'configmap://rows/a/b': 'a/b' is not a key of a ConfigMap; wanted configmap://NAME/KEY"),
        ("file://data", "'file://data': a file place needs an absolute path"),
        ("gs://bucket/x", "'gs://bucket/x' is not a place: wanted one of hf://OWNER/NAME, s3://BUCKET/PATH"),
        ("rows.jsonl", "'rows.jsonl' is not a place"),
        ("hf://owner/name@main", "'hf://owner/name@main': a place has no revision; wanted hf://owner/name"),
        ("hf://datasets/owner/name", "'hf://datasets/owner/name': leave datasets/ out; wanted hf://OWNER/NAME"),
        ("hf://owner/na me", "'hf://owner/na me': 'na me' is not the name of a repository"),
        ("s3://key:hunter2@bucket/x", "'s3://...@bucket/x' carries credentials"),
        ("https://key:hunter2@host/x", "'https://...host/x' is not a place"),
        ("https://host/x?X-Amz-Signature=hunter2", "'https://host/x...' is not a place"),
    ],
)
def test_what_is_no_place_is_told_with_the_form_that_is_wanted(uri: str, wanted: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_place(uri)
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize("field", ["uri", "evalUri"])
def test_rows_may_come_from_a_config_map(field: str) -> None:
    assert said("dataset", **{field: "configmap://rows/train.jsonl"}) == []


@pytest.mark.parametrize("section", ["model", "checkpoint", "output"])
def test_nothing_else_may(section: str) -> None:
    assert said(section, uri="configmap://rows/train.jsonl")[0].startswith(
        f"spec.{section}.uri: got 'configmap://rows/train.jsonl', wanted"
    )


@pytest.mark.parametrize("uri", ["configmap://rows/train.jsonl", "pvc://claim/rows.jsonl"])
def test_a_local_run_says_that_it_needs_a_cluster(uri: str) -> None:
    scheme = uri.partition("://")[0]
    assert said("dataset", is_local=True, uri=uri) == [
        f"spec.dataset.uri: got {uri!r}, wanted file://, hf://, s3://; {scheme}:// needs a cluster"
    ]


@pytest.mark.parametrize(("section", "field"), [("dataset", "evalUri"), ("dataset", "uri"), ("model", "uri"), ("output", "uri")])
def test_a_folder_of_one_machine_is_for_local_runs(section: str, field: str) -> None:
    assert said(section, **{field: "file:///data/x"})[0].endswith("file:// is for local runs (`finetune run`)")
    assert said(section, is_local=True, **{field: "file:///data/x"}) == []


@pytest.mark.parametrize("uri", ["hf://owner/name/tree/main", "hf://owner/name/model.safetensors"])
def test_a_model_is_a_whole_repository(uri: str) -> None:
    assert said("model", uri=uri)[0].startswith(f"spec.model.uri: got {uri!r}: a model is a whole repository; wanted hf://OWNER/NAME")
    assert said("dataset", uri=uri) == []


def test_held_out_rows_that_are_trained_on_are_warned_of() -> None:
    dataset = {"uri": "s3://data/rows/", "evalUri": "s3://data/rows"}
    metadata = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "x"}}
    job = parse_job({**metadata, "spec": {**SPEC, "dataset": dataset}})
    assert any(warning.startswith("spec.dataset.evalUri: is the same place as spec.dataset.uri") for warning in warnings(job))
