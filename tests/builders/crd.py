"""The structural schema of `spec` as plain JSON Schema."""

from typing import Any

from finetune_operator.api.crd import custom_resource_definition


def spec_schema() -> dict[str, Any]:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return _plain(schema["properties"]["spec"])


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    """Booleans of draft 4 are numbers later; int-or-string has no type of its own; fields that are not there are pruned or refused."""
    plain = {key: value for key, value in node.items() if not key.startswith(("x-", "exclusive"))}
    if node.get("exclusiveMinimum"):
        plain["exclusiveMinimum"] = plain.pop("minimum")
    if node.get("exclusiveMaximum"):
        plain["exclusiveMaximum"] = plain.pop("maximum")
    if node.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    for key in ("items", "additionalProperties"):
        if key in node:
            plain[key] = _plain(node[key])
    if "properties" in node:
        plain |= {"properties": {name: _plain(child) for name, child in node["properties"].items()}, "additionalProperties": False}
    return plain
