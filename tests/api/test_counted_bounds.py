"""A value beyond a bound of the schema is told with the bound in words: "at least 1 character", "at most 1 entry"."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.builders.sentences import miscounted

from finetune_operator.api.crd import custom_resource_definition
from finetune_operator.api.rules import validate
from finetune_operator.api.yaml_reader import read_documents

GOOD = read_documents((Path(__file__).resolve().parent.parent / "golden" / "good.yaml").read_text())[0].value
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def told(path: tuple[str, ...], value: Any) -> list[str]:
    job = {**GOOD, "spec": dict(GOOD["spec"])}
    node = job["spec"]
    for name in path[:-1]:
        node[name] = dict(node.get(name, {}))
        node = node[name]
    node[path[-1]] = value
    return [f"{error.path}: {error.message}" for error in validate(job)]


def beyond(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Of each text and list with a bound of one: a value with none, or with two."""
    for name, child in node.get("properties", {}).items():
        yield from beyond(child, (*path, name))
    if node.get("minLength") == 1:
        yield path, ""
    if node.get("minItems") == 1:
        yield path, []
    if node.get("maxItems") == 1:
        yield path, ["wandb", "wandb"]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("tracking", "project"), "", "spec.tracking.project: got the string '', wanted at least 1 character"),
        (("tracking", "project"), "x" * 129, "wanted at most 128 characters"),
        (("adapter", "targetModules"), [], "wanted at least 1 entry"),
        (("tracking", "reportTo"), ["wandb", "wandb"], "wanted at most 1 entry"),
    ],
)
def test_a_bound_of_one_is_told_in_the_singular(path: tuple[str, ...], value: Any, sentence: str) -> None:
    assert any(sentence in line for line in told(path, value)), told(path, value)


def test_no_bound_of_the_schema_is_told_in_the_wrong_number() -> None:
    lines = [line for path, value in beyond(SCHEMA) for line in told(path, value)]
    assert len(lines) > 5
    assert [line for line in lines if miscounted(line) is not None] == []
