"""What can be promised about the chart without rendering it; e2e/test_chart.py renders it with Helm."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "finetune-operator"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_the_schema_is_a_schema_and_accepts_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 2},
        {"crds": {"enable": True}},
        {"crds": {"keep": "yes"}},
        {"image": {"digest": "sha256:abc"}},
        {"webhook": {"failurePolicy": "Maybe"}},
        {"watchNamespaces": ["Team_A"]},
        {"watchNamespaces": "team-a"},
        {"logging": {"level": "trace"}},
        {"metrics": {"serviceMonitor": {"interval": 15}}},
    ],
    ids=str,
)
def test_the_schema_refuses_a_key_or_value_that_does_nothing(wrong: dict[str, Any]) -> None:
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(wrong)


def test_every_value_is_known_to_the_schema() -> None:
    assert set(_leaves(VALUES)) <= set(_schema_leaves(SCHEMA))


def test_every_value_is_explained_in_the_readme_and_no_other() -> None:
    table = [line for line in (CHART / "README.md").read_text().splitlines() if line.startswith("| `")]
    explained = {name.strip("`") for line in table for name in line.split("|")[1].strip().split(", ")}
    documented_as_one = {path if not path.startswith("resources.") else "resources" for path in _leaves(VALUES)}
    assert explained == documented_as_one


def test_the_resource_definition_of_the_chart_is_the_generated_one() -> None:
    assert (CHART / "files" / "finetunejobs.yaml").read_text() == (ROOT / "crds" / "finetunejobs.yaml").read_text()


def test_the_resource_definition_survives_the_yaml_reader_of_helm() -> None:
    """Helm reads YAML 1.1 as PyYAML does: a plain key such as `on` or `y` would become a boolean, `2e-4` a string."""
    definition = yaml.safe_load((CHART / "files" / "finetunejobs.yaml").read_text())
    assert all(isinstance(key, str) for key in _keys(definition))


def test_the_chart_carries_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = "))
    assert {chart["version"], chart["appVersion"]} == {version.split('"')[1]}


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _schema_leaves(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Paths that the schema names; a free map is known with everything that the defaults put into it."""
    for key, entry in schema["properties"].items():
        if "properties" in entry:
            yield from _schema_leaves(entry, f"{above}{key}.")
        elif entry.get("type") == "object" and f"{above}{key}" in {"resources.requests", "resources.limits"}:
            yield from (f"{above}{key}.{name}" for name in ("cpu", "memory"))
        else:
            yield f"{above}{key}"


def _keys(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from _keys(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _keys(entry)
