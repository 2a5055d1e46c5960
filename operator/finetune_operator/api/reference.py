"""The API reference as Markdown: every field of spec with type, default, bounds and description, and the shape of status."""

from collections.abc import Iterator
from typing import Any

from finetune_contract.plurals import counted
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import JobStatus
from finetune_operator.api.status_words import describe
from finetune_operator.api.structural import structural_schema

JsonObject = dict[str, Any]

_HEAD = """# FineTuneJob reference

`apiVersion: finetune.dev/v1alpha1`, `kind: FineTuneJob`, short name `ftj`. Generated from the models; `make generate` writes it.

Numbers are numbers: `learningRate: 2e-4` is 0.0002 for kubectl, Helm and `finetune`; `"2e-4"` in quotes is a string and is refused.

## spec

| field | type | default | bounds | what it is |
|---|---|---|---|---|
"""
_STATUS_HEAD = """
## status

Written by the operator only. `phase` is for people; machines read `conditions` (see [conditions](conditions.md)).

| field | type | what it is |
|---|---|---|
"""


def render_reference() -> str:
    spec, status = structural_schema(FineTuneJobSpec), structural_schema(JobStatus)
    describe(status)
    rows = [
        f"| `{path}` | {_type(node)} | {_default(node, required)} | {_bounds(node)} | {node.get('description', '')} |"
        for path, node, required in _leaves(spec, "spec")
    ]
    status_rows = [f"| `{path}` | {_type(node)} | {node.get('description', '')} |" for path, node, _ in _leaves(status, "status")]
    return _HEAD + "\n".join(rows) + "\n" + _STATUS_HEAD + "\n".join(status_rows) + "\n"


def _leaves(node: JsonObject, path: str) -> Iterator[tuple[str, JsonObject, bool]]:
    required = set(node.get("required", ()))
    for name, child in node["properties"].items():
        items = child.get("items", {})
        if "properties" in child:
            yield from _leaves(child, f"{path}.{name}")
        elif "properties" in items:
            yield from _leaves(items, f"{path}.{name}[]")
        else:
            yield f"{path}.{name}", child, name in required


def _type(node: JsonObject) -> str:
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}"
    if node.get("type") == "object":
        return f"map to {_type(node['additionalProperties'])}"
    return str(node.get("format") or node.get("type") or "integer or string")


def _default(node: JsonObject, required: bool) -> str:
    if "default" in node:
        return f"`{node['default']}`".replace("True", "true").replace("False", "false")
    return "required" if required else "-"


def _bounds(node: JsonObject) -> str:
    low = f"{'>' if node.get('exclusiveMinimum') else '>='} {node['minimum']}" if "minimum" in node else ""
    high = f"{'<' if node.get('exclusiveMaximum') else '<='} {node['maximum']}" if "maximum" in node else ""
    length = f"<= {counted(node['maxLength'], 'character')}" if "maxLength" in node and "enum" not in node else ""
    most = node.get("maxItems", node.get("maxProperties"))
    entries = f"<= {counted(most, 'entry', 'entries')}" if most is not None else ""
    return ", ".join(part for part in (low, high, length, entries) if part) or "-"
