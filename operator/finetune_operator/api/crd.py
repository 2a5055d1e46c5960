"""The CustomResourceDefinition, made from the pydantic models: structural schema, CEL rules, columns, scale. Deterministic."""

from typing import Any

import yaml

from finetune_operator.api.job import GROUP, KIND, PLURAL, VERSION
from finetune_operator.api.rules import IMMUTABLE, IMMUTABLE_MESSAGE, MAX_NAME_CHARS, MAX_PODS
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
    spec["x-kubernetes-validations"] = _spec_rules()
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
        {
            "rule": "self.resources.nodes.min <= self.resources.nodes.max",
            "message": "spec.resources.nodes: min is greater than max; lower min or raise max",
        },
        {
            "rule": f"self.resources.nodes.max + self.resources.spares <= {MAX_PODS}",
            "message": f"spec.resources.spares: nodes.max and spares are more than {MAX_PODS} pods; lower one of them",
        },
        {
            "rule": "!(has(self.dataset.evalUri) && self.dataset.evalFraction > 0.0)",
            "message": "spec.dataset: evalUri and evalFraction exclude each other; keep one",
        },
        {
            "rule": "self.output.uri != self.checkpoint.uri",
            "message": "spec.output.uri is the same place as spec.checkpoint.uri; choose another",
        },
        {
            "rule": "!(has(self.storage.secretName) && has(self.storage.serviceAccountName))",
            "message": "spec.storage: secretName and serviceAccountName exclude each other; keep one",
        },
    ]
    rules.append(
        {
            "rule": "size(self.tracking.reportTo) == 0 || has(self.tracking.secretName) || has(self.storage.secretName)",
            "message": "spec.tracking.reportTo: wandb needs a key; name a Secret with WANDB_API_KEY in tracking.secretName",
        }
    )
    places = (
        ("model.uri", "hf|s3|pvc"),
        ("dataset.uri", "hf|s3|pvc|configmap"),
        ("dataset.evalUri", "hf|s3|pvc|configmap"),
        ("checkpoint.uri", "s3|pvc"),
        ("output.uri", "s3|pvc"),
    )
    rules += [_place(path, schemes) for path, schemes in places]
    rules += [_immutable(name) for name in IMMUTABLE]
    return rules


def _place(path: str, schemes: str) -> JsonObject:
    wanted = schemes.replace("|", "://, ") + "://"
    matches = f"self.{path}.matches('^({schemes})://.+')"
    return {
        "rule": f"!has(self.{path}) || {matches}" if path == "dataset.evalUri" else matches,
        "message": f"spec.{path}: wanted {wanted}; file:// is for local runs (`finetune run`)",
    }


def _immutable(name: str) -> JsonObject:
    """A running job cannot follow a change of this field."""
    optional = name in {key for key, field in FineTuneJobSpec.model_fields.items() if field.default is None}
    same = f"self.{name} == oldSelf.{name}"
    rule = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})" if optional else same
    return {"rule": rule, "message": f"spec.{name}: {IMMUTABLE_MESSAGE}"}


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
