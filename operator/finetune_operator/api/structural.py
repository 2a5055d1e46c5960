"""Pydantic's JSON schema as a structural schema of apiextensions/v1: references inlined, nullables dropped, bounds demanded."""

from typing import Any

from pydantic import BaseModel

JsonObject = dict[str, Any]
_DROPPED = {"title", "propertyNames", "additionalProperties", "$defs", "examples"}
_MAX_STRING, _MAX_ITEMS = 1024, 512


class SchemaError(ValueError):
    """A model uses what a structural schema cannot say."""


def structural_schema(model: type[BaseModel]) -> JsonObject:
    """Schema of one model. Raises SchemaError for unknown keywords and for lists, maps and strings without a bound."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    schema = _convert(raw, raw.get("$defs", {}), model.__name__)
    lint(schema, model.__name__)
    return schema


def _convert(node: JsonObject, definitions: JsonObject, path: str) -> JsonObject:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    if "anyOf" in node:
        node = _collapse(node, path)
        if "$ref" in node:
            return _convert(node, definitions, path)
    out: JsonObject = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: _convert(child, definitions, f"{path}.{name}") for name, child in value.items()}
        elif key == "items":
            out[key] = _convert(value, definitions, f"{path}[]")
        elif key == "additionalProperties" and isinstance(value, dict):
            out[key] = _convert(value, definitions, f"{path}{{}}")
        else:
            out.update(_keyword(key, value, is_parent="properties" in node))
    return _bounded(out)


def _keyword(key: str, value: Any, *, is_parent: bool) -> JsonObject:
    """One keyword in the words of apiextensions/v1; empty if it has none there."""
    if key in {"exclusiveMinimum", "exclusiveMaximum"}:
        return {key.replace("exclusiveM", "m"): value, key: True}
    if key == "const":
        return {"enum": [value]}
    if key in _DROPPED or (key == "default" and value is None):
        return {}
    if key == "default" and is_parent:
        return {key: {}}  # the leaves fill it in
    return {key: value}


def _collapse(node: JsonObject, path: str) -> JsonObject:
    """X | None is X that may be absent; str | int is Kubernetes' int-or-string."""
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    kinds = {option.get("type") for option in options}
    if kinds == {"string", "integer"}:
        keys = ("pattern", "maxLength", "minimum")
        bounds = {key: option[key] for option in options for key in keys if key in option}
        return {**rest, **bounds, "x-kubernetes-int-or-string": True}
    if len(options) != 1:
        raise SchemaError(f"{path}: {len(options)} alternatives cannot be said in a structural schema")
    return {**options[0], **rest}


def _bounded(node: JsonObject) -> JsonObject:
    """Status models leave machine-written strings and lists to these bounds."""
    kind = node.get("type")
    if kind == "string" and "enum" not in node and "format" not in node:
        node.setdefault("maxLength", _MAX_STRING)
    if kind == "array":
        node.setdefault("maxItems", _MAX_ITEMS)
    if kind == "object" and "additionalProperties" in node:
        node.setdefault("maxProperties", 64)
    return node


_KNOWN = {
    *("type", "description", "properties", "required", "items", "additionalProperties", "default", "enum", "format", "pattern"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-validations"),
}


def lint(node: JsonObject, path: str) -> None:
    """Raises SchemaError for a keyword that the API server does not know, or for a node without a type."""
    unknown = set(node) - _KNOWN
    if unknown:
        raise SchemaError(f"{path}: unknown keywords {sorted(unknown)}")
    if "type" not in node and "x-kubernetes-int-or-string" not in node:
        raise SchemaError(f"{path}: has no type")
    for name, child in node.get("properties", {}).items():
        lint(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            lint(node[key], f"{path}.{key}")
