"""The CustomResourceDefinition, made from the pydantic models: structural schema, CEL rules, columns, scale. Deterministic."""

from typing import Any

import yaml

from finetune_operator.api.envelope import MAX_NAME_CHARS
from finetune_operator.api.job import GROUP, KIND, PLURAL, VERSION
from finetune_operator.api.rules import IMMUTABLE, IMMUTABLE_MESSAGE, MAX_PODS
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import JobStatus
from finetune_operator.api.status_words import describe
from finetune_operator.api.structural import structural_schema

JsonObject = dict[str, Any]
MAX_BYTES = 256 * 1024

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Nodes", "string", ".status.columns.nodes", 0),
    ("Step", "string", ".status.columns.step", 0),
    ("Loss", "string", ".status.columns.loss", 0),
    ("ETA", "string", ".status.columns.eta", 0),
    ("Restarts", "integer", ".status.columns.restarts", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Model", "string", ".spec.model.uri", 1),
    ("Output", "string", ".status.output.uri", 1),
    ("Reason", "string", ".status.columns.reason", 1),
)


def render_crd() -> str:
    """The CRD as YAML."""
    return yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=140, allow_unicode=False)


def custom_resource_definition() -> JsonObject:
    """The CRD as an object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
                "categories": ["finetune"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> JsonObject:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.resources.nodes.max",
                "statusReplicasPath": ".status.readyMembers",
                "labelSelectorPath": ".status.selector",
            },
        },
        "selectableFields": [{"jsonPath": ".status.phase"}, {"jsonPath": ".spec.model.uri"}],
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, **({"priority": priority} if priority else {})}
            for name, kind, path, priority in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": _schema()},
    }


def _schema() -> JsonObject:
    spec, status = structural_schema(FineTuneJobSpec), structural_schema(JobStatus)
    describe(status)
    _bound_below(status)
    spec["x-kubernetes-validations"] = _spec_rules()
    spec["properties"]["placement"]["properties"]["tolerations"]["items"]["x-kubernetes-validations"] = _toleration_rules()
    status["x-kubernetes-validations"] = _status_rules()
    status["properties"]["conditions"].update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
    return {
        "type": "object",
        "description": "One LoRA fine-tuning run: a base model and rows in, an adapter out.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            {
                "rule": f"size(self.metadata.name) <= {MAX_NAME_CHARS}",
                "message": f"metadata.name has too many characters, at most {MAX_NAME_CHARS} are allowed; choose a shorter name",
            }
        ],
    }


def _spec_rules() -> list[JsonObject]:
    rules = [
        _rule("self.resources.nodes.min <= self.resources.nodes.max", "resources.nodes", "min is greater than max; lower min or raise max"),
        _rule(
            f"self.resources.nodes.max + self.resources.spares <= {MAX_PODS}",
            "resources.spares",
            f"nodes.max plus spares is more than {MAX_PODS} pods; lower one of them",
        ),
        _rule(
            "!(has(self.dataset.evalUri) && self.dataset.evalFraction > 0.0)",
            "dataset",
            "evalUri and evalFraction exclude each other; keep one",
        ),
        _rule(
            "!has(self.dataset.columns) || self.dataset.format == 'auto'",
            "dataset.columns",
            "columns and format both set the form of the rows; keep one",
        ),
        _rule("self.output.uri != self.checkpoint.uri", "output.uri", "is the same place as spec.checkpoint.uri; choose another"),
        _rule(
            "!(has(self.storage.secretName) && has(self.storage.serviceAccountName))",
            "storage",
            "secretName and serviceAccountName exclude each other; keep one",
        ),
        _rule(
            "size(self.tracking.reportTo) == 0 || has(self.tracking.secretName) || has(self.storage.secretName)",
            "tracking.reportTo",
            "wandb needs a key; name a Secret with WANDB_API_KEY in tracking.secretName",
        ),
        _rule(
            "!self.adapter.targetModules.exists(name, name == 'all-linear') || size(self.adapter.targetModules) == 1",
            "adapter.targetModules",
            "all-linear already names every linear layer; remove it or the other names",
        ),
    ]
    places = (
        ("model.uri", ("hf", "s3", "pvc")),
        ("dataset.uri", ("hf", "s3", "pvc", "configmap")),
        ("dataset.evalUri", ("hf", "s3", "pvc", "configmap")),
        ("checkpoint.uri", ("s3", "pvc")),
        ("output.uri", ("s3", "pvc")),
    )
    rules += [_place(path, schemes) for path, schemes in places]
    rules += [_immutable(name) for name in IMMUTABLE]
    return rules


def _rule(rule: str, path: str, message: str) -> JsonObject:
    """`path` below the node that holds the rule: the error is told there."""
    return {"rule": rule, "message": message, "fieldPath": f".{path}"}


_NAME = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_PLACE_FORMS = {"hf": "hf://[^/]+/+[^/]", "s3": "s3://[^/]+/+[^/]", "pvc": f"pvc://{_NAME}(/|$)", "configmap": f"configmap://{_NAME}/[^/]"}


def _place(path: str, schemes: tuple[str, ...]) -> JsonObject:
    wanted = ", ".join(f"{scheme}://" for scheme in schemes)
    matches = f"self.{path}.matches('^({'|'.join(_PLACE_FORMS[scheme] for scheme in schemes)})')"
    rule = f"!has(self.{path}) || {matches}" if path == "dataset.evalUri" else matches
    return _rule(rule, path, f"wanted a whole place: {wanted}; file:// is for local runs (`finetune run`)")


def _immutable(name: str) -> JsonObject:
    """A running job cannot follow a change of this field."""
    optional = name in {key for key, field in FineTuneJobSpec.model_fields.items() if field.default is None}
    same = f"self.{name} == oldSelf.{name}"
    rule = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})" if optional else same
    return _rule(rule, name, IMMUTABLE_MESSAGE)


def _toleration_rules() -> list[JsonObject]:
    return [
        _rule("has(self.key) || self.operator == 'Exists'", "operator", "has to be Exists when there is no key: it tolerates every taint"),
        _rule("self.operator != 'Exists' || !has(self.value) || self.value == ''", "value", "has to be absent when operator is Exists"),
        _rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "effect",
            "has to be NoExecute when tolerationSeconds is set",
        ),
    ]


def _bound_below(node: JsonObject) -> None:
    """Whatever the status counts, it is not negative."""
    if node.get("type") == "integer":
        node.setdefault("minimum", 0)
    for child in (*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])):
        _bound_below(child)


def _status_rules() -> list[JsonObject]:
    def sticky(name: str) -> JsonObject:
        had = f"oldSelf.conditions.exists(c, c.type == '{name}' && c.status == 'True')"
        has = f"self.conditions.exists(c, c.type == '{name}' && c.status == 'True')"
        return {
            "rule": f"!has(oldSelf.conditions) || !{had} || (has(self.conditions) && {has})",
            "message": f"condition {name} is final",
        }

    def never_falls(name: str) -> JsonObject:
        return {
            "rule": f"!has(oldSelf.{name}) || (has(self.{name}) && self.{name} >= oldSelf.{name})",
            "message": f"status.{name} never falls",
        }

    return [never_falls("lastFormation"), never_falls("lastSerial"), sticky("Complete"), sticky("Failed")]
