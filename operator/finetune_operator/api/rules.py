"""Every rule of the resource that is not the bound of one field, each a named function; used by validate, webhook and reconcile.

What the API server can check itself stands in the schema as CEL too (crd.py); the wording here is for `finetune validate`.
"""

import json
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from typing import Any

from pydantic import ValidationError

from finetune_contract.places import Place, Scheme, parse_place
from finetune_operator.api.job import API_VERSION, KIND, FineTuneJob
from finetune_operator.api.schema_errors import explain
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.spec_error import SpecError

JsonObject = dict[str, Any]
MAX_NAME_CHARS = 45
MAX_PODS = 256  # of one job
# What a running job cannot follow; the CEL rules of the CRD are made from the same list.
IMMUTABLE = (
    "model",
    "dataset",
    "adapter",
    "training",
    "resources.processesPerNode",
    "resources.requests",
    "resources.limits",
    "checkpoint",
    "output",
    "tracking",
    "image",
)
IMMUTABLE_MESSAGE = "field is immutable; create a new FineTuneJob"
_INPUT_SCHEMES = {Scheme.HF, Scheme.S3, Scheme.PVC}
_ROW_SCHEMES = {*_INPUT_SCHEMES, Scheme.CONFIGMAP}
_CLUSTER_SCHEMES = {Scheme.PVC, Scheme.CONFIGMAP}
_STORE_SCHEMES = {Scheme.S3, Scheme.PVC}
Rule = Callable[[FineTuneJobSpec, bool], Iterator[SpecError]]


def validate(job: JsonObject, old: JsonObject | None = None, *, is_local: bool = False) -> tuple[SpecError, ...]:
    """All errors of one document, schema first; empty if it is good. `old`: the stored object that it would replace."""
    envelope = tuple(_envelope_errors(job))
    if envelope:
        return envelope
    try:
        spec = FineTuneJobSpec.model_validate_json(json.dumps(job["spec"]), strict=True)
    except ValidationError as error:
        return tuple(explain(error, FineTuneJobSpec))
    errors = [error for rule in RULES for error in rule(spec, is_local)]
    if old is not None:
        errors += immutable_fields_stay(spec, FineTuneJobSpec.model_validate(old.get("spec")))
    return tuple(errors)


def check_spec(job: FineTuneJob, *, is_local: bool = False) -> tuple[SpecError, ...]:
    """The rules for a job that was parsed already: what slipped past a webhook that was away."""
    return tuple(error for rule in RULES for error in rule(job.spec, is_local))


def warnings(job: FineTuneJob) -> tuple[str, ...]:
    """What is allowed but probably not meant."""
    return tuple(_idle_ranks(job.spec))


def _envelope_errors(job: JsonObject) -> Iterator[SpecError]:
    if not isinstance(job, dict):
        yield SpecError("", f"wanted a {KIND} object, got {job!r}")
        return
    if job.get("apiVersion") != API_VERSION:
        yield SpecError("apiVersion", f"got {job.get('apiVersion')!r}, wanted {API_VERSION!r}")
    if job.get("kind") != KIND:
        yield SpecError("kind", f"got {job.get('kind')!r}, wanted {KIND!r}")
    name = job.get("metadata", {}).get("name") if isinstance(job.get("metadata"), dict) else None
    if not isinstance(name, str) or not name:
        yield SpecError("metadata.name", "is missing; give the job a name")
    elif len(name) > MAX_NAME_CHARS:
        why = f"has {len(name)} characters, at most {MAX_NAME_CHARS} are allowed (pod names are made from it); choose a shorter name"
        yield SpecError("metadata.name", why)
    if not isinstance(job.get("spec"), dict):
        yield SpecError("spec", "is missing; see `finetune validate --help`")


def nodes_min_is_at_most_max(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    nodes = spec.resources.nodes
    if nodes.min > nodes.max:
        yield SpecError("spec.resources.nodes", f"min {nodes.min} is greater than max {nodes.max}; lower min or raise max")


def nodes_and_spares_are_at_most_256(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    nodes, spares = spec.resources.nodes.max, spec.resources.spares
    if nodes + spares > MAX_PODS:
        what = f"nodes.max {nodes} and spares {spares} are {nodes + spares} pods, at most {MAX_PODS} are allowed; lower one of them"
        yield SpecError("spec.resources.spares", what)


def eval_rows_come_from_one_place(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    if spec.dataset.eval_uri is not None and spec.dataset.eval_fraction > 0:
        yield SpecError("spec.dataset", "evalUri and evalFraction exclude each other; keep one")


def output_is_not_the_checkpoint_place(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    if spec.output.uri.rstrip("/") == spec.checkpoint.uri.rstrip("/"):
        what = (
            f"is {spec.output.uri!r}, the same place as spec.checkpoint.uri; choose another, such as {spec.output.uri.rstrip('/')}-adapter"
        )
        yield SpecError("spec.output.uri", what)


def credentials_have_one_source(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    if spec.storage.secret_name and spec.storage.service_account_name:
        yield SpecError("spec.storage", "secretName and serviceAccountName exclude each other; keep one")


def a_tracker_has_a_key(spec: FineTuneJobSpec, is_local: bool) -> Iterator[SpecError]:
    if spec.tracking.report_to and not is_local and not (spec.tracking.secret_name or spec.storage.secret_name):
        yield SpecError("spec.tracking.reportTo", "wandb needs a key; name a Secret with WANDB_API_KEY in tracking.secretName")


def places_can_be_reached(spec: FineTuneJobSpec, is_local: bool) -> Iterator[SpecError]:
    named = (
        ("spec.model.uri", spec.model.uri, _INPUT_SCHEMES),
        ("spec.dataset.uri", spec.dataset.uri, _ROW_SCHEMES),
        ("spec.dataset.evalUri", spec.dataset.eval_uri, _ROW_SCHEMES),
        ("spec.checkpoint.uri", spec.checkpoint.uri, _STORE_SCHEMES),
        ("spec.output.uri", spec.output.uri, _STORE_SCHEMES),
    )
    for path, uri, allowed in named:
        if uri is None:
            continue
        try:
            place = parse_place(uri)
        except ValueError as error:
            yield SpecError(path, str(error))
            continue
        yield from _scheme_errors(path, uri, place, allowed, is_local)


def _scheme_errors(path: str, uri: str, place: Place, allowed: set[Scheme], is_local: bool) -> Iterator[SpecError]:
    here = (allowed - _CLUSTER_SCHEMES) | {Scheme.FILE} if is_local else allowed
    if place.scheme in here:
        return
    wanted = ", ".join(sorted(f"{scheme.value}://" for scheme in here))
    reason = ""
    if place.scheme is Scheme.FILE:
        reason = "; file:// is for local runs (`finetune run`)"
    elif is_local and place.scheme in _CLUSTER_SCHEMES:
        reason = f"; {place.scheme.value}:// needs a cluster"
    yield SpecError(path, f"got {uri!r}, wanted {wanted}{reason}")


def immutable_fields_stay(spec: FineTuneJobSpec, old: FineTuneJobSpec) -> Iterator[SpecError]:
    new_fields, old_fields = spec.model_dump(by_alias=True), old.model_dump(by_alias=True)
    for path in IMMUTABLE:
        names = path.split(".")
        if reduce(getitem, names, new_fields) != reduce(getitem, names, old_fields):
            yield SpecError(f"spec.{path}", IMMUTABLE_MESSAGE)


RULES: tuple[Rule, ...] = (
    nodes_min_is_at_most_max,
    nodes_and_spares_are_at_most_256,
    eval_rows_come_from_one_place,
    output_is_not_the_checkpoint_place,
    credentials_have_one_source,
    a_tracker_has_a_key,
    places_can_be_reached,
)


def _idle_ranks(spec: FineTuneJobSpec) -> Iterator[str]:
    ranks = spec.resources.nodes.max * spec.resources.processes_per_node
    rows = spec.training.global_batch_size
    if rows < ranks:
        idle = f"rank {rows}" if rows == ranks - 1 else f"ranks {rows} to {ranks - 1}"
        gang = f"{ranks} ranks ({spec.resources.nodes.max} nodes x {spec.resources.processes_per_node})"
        yield f"spec.training.globalBatchSize: {rows} rows for {gang}: {idle} will be idle; raise it to {ranks} or use fewer"
