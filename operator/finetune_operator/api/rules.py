"""Every rule of the resource that is not the bound of one field, each a named function; used by validate, webhook and reconcile.

All are cheap whatever a document holds, for reconcile asks them for everybody's jobs: a template is read and tried elsewhere, in a
process of its own (template_trial.py), and by the members.

What the API server can check itself stands in the schema as CEL too (crd.py); the wording here is for `finetune validate`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal

from pydantic import ValidationError

from finetune_contract.endpoints import is_beyond_the_cluster, parse_endpoint
from finetune_contract.places import Place, Scheme, check_pattern, parse_place
from finetune_contract.plurals import counted
from finetune_operator.api.envelope import envelope_errors
from finetune_operator.api.job import FineTuneJob, Metadata
from finetune_operator.api.pod_rules import (
    a_pod_can_ask_for_its_resources,
    a_process_has_a_gpu,
    idle_gpus,
    pod_labels_are_labels,
    tiny_memory,
    tolerations_are_those_of_a_pod,
)
from finetune_operator.api.schema_errors import explain
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.syntax import MEANING, SUBDOMAIN_PATTERN, is_subdomain

JsonObject = dict[str, Any]
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
Extra = Literal["forbid", "ignore"]
Rule = Callable[[FineTuneJobSpec, bool], Iterator[SpecError]]


def validate(job: Any, old: Any = None, *, is_local: bool = False, extra: Extra = "forbid") -> tuple[SpecError, ...]:
    """All errors of one document (any JSON value), schema first; empty if it is good. `extra`: what becomes of unknown fields.

    `old`: the stored object that it would replace. What was wrong there already is no reason to refuse a change: a job that an older
    definition let in can still be suspended and deleted.
    """
    errors = _errors_of(job, is_local=is_local, extra=extra)
    if not isinstance(old, dict):
        return errors
    known = set(_errors_of(old, is_local=is_local, extra=extra)) if errors else set()
    changed = immutable_fields_stay(job["spec"], old.get("spec")) if isinstance(job, dict) and isinstance(job.get("spec"), dict) else ()
    return (*(error for error in errors if error not in known), *changed)


def check_spec(job: FineTuneJob, *, is_local: bool = False) -> tuple[SpecError, ...]:
    """The rules for a job that was parsed already: what slipped past a webhook that was away."""
    return tuple(error for rule in RULES for error in rule(job.spec, is_local))


def warnings(job: FineTuneJob) -> tuple[str, ...]:
    """What is allowed but probably not meant."""
    rules = (_idle_ranks, _held_out_rows_are_trained_on, idle_gpus, tiny_memory, _credentials_in_the_clear)
    return tuple(warning for found in rules for warning in found(job.spec))


def parse_job(job: JsonObject, *, extra: Extra = "forbid") -> FineTuneJob:
    """A document without errors."""
    return FineTuneJob(metadata=Metadata.model_validate(without_nulls(job["metadata"])), spec=_parse_spec(job["spec"], extra))


def without_nulls(value: Any) -> Any:
    """An absent field: so the API server reads a null, except in a list."""
    if isinstance(value, dict):
        return {key: without_nulls(child) for key, child in value.items() if child is not None}
    return [without_nulls(child) for child in value] if isinstance(value, list) else value


def _errors_of(job: Any, *, is_local: bool, extra: Extra) -> tuple[SpecError, ...]:
    try:
        envelope = tuple(envelope_errors(job))
        if envelope:
            return envelope
        spec = _parse_spec(job["spec"], extra)
    except ValidationError as error:
        return tuple(explain(error, FineTuneJobSpec))
    except RecursionError:
        return (SpecError("", "is nested too deeply; no job is"),)
    return tuple(error for rule in RULES for error in rule(spec, is_local))


def _parse_spec(spec: JsonObject, extra: Extra) -> FineTuneJobSpec:
    """camelCase only, as in the resource definition. Raises ValidationError."""
    return FineTuneJobSpec.model_validate_json(json.dumps(without_nulls(spec)), strict=True, extra=extra, by_alias=True, by_name=False)


def nodes_min_is_at_most_max(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    nodes = spec.resources.nodes
    if nodes.min > nodes.max:
        yield SpecError("spec.resources.nodes", f"min {nodes.min} is greater than max {nodes.max}; lower min or raise max")


def nodes_and_spares_are_at_most_256(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    nodes, spares = spec.resources.nodes.max, spec.resources.spares
    if nodes + spares > MAX_PODS:
        what = f"nodes.max {nodes} plus spares {spares} is {nodes + spares} pods, at most {MAX_PODS} are allowed; lower one of them"
        yield SpecError("spec.resources.spares", what)


def eval_rows_come_from_one_place(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    if spec.dataset.eval_uri is not None and spec.dataset.eval_fraction > 0:
        yield SpecError("spec.dataset", "evalUri and evalFraction exclude each other; keep one")


def the_form_of_rows_is_said_once(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    if spec.dataset.columns is not None and spec.dataset.format != "auto":
        yield SpecError("spec.dataset.columns", "columns and format both set the form of the rows; keep one")


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
            check_pattern(uri, is_allowed=allowed is _ROW_SCHEMES)
            place = parse_place(uri)
        except ValueError as error:
            yield SpecError(path, str(error))
            continue
        if place.scheme in _CLUSTER_SCHEMES and not is_subdomain(place.container):
            yield SpecError(
                path, f"got {uri!r}: {place.container!r} is not the name of a claim or a ConfigMap; wanted {MEANING[SUBDOMAIN_PATTERN]}"
            )
            continue
        if path == "spec.model.uri" and place.scheme is Scheme.HF and "/" in place.path:
            yield SpecError(path, f"got {uri!r}: a model is a whole repository; wanted hf://OWNER/NAME, with the branch in model.revision")
            continue
        yield from _scheme_errors(path, uri, place, allowed, is_local)


def endpoints_are_urls(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    for path, url in (("spec.storage.endpoint", spec.storage.endpoint), ("spec.tracking.endpoint", spec.tracking.endpoint)):
        try:
            if url is not None:
                parse_endpoint(url)
        except ValueError as error:
            yield SpecError(path, str(error))


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


def lists_name_each_entry_once(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    named = (
        ("spec.adapter.targetModules", spec.adapter.target_modules),
        ("spec.tracking.reportTo", spec.tracking.report_to),
        ("spec.placement.imagePullSecrets", spec.placement.image_pull_secrets),
    )
    for path, entries in named:
        twice = next((entry for index, entry in enumerate(entries) if entry in entries[:index]), None)
        if twice is not None:
            yield SpecError(path, f"{twice!r} is given twice; keep one")


def all_linear_stands_alone(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    modules = spec.adapter.target_modules
    if "all-linear" in modules and len(modules) > 1:
        yield SpecError("spec.adapter.targetModules", "all-linear already names every linear layer; remove it or the other names")


def immutable_fields_stay(new: JsonObject, old: Any) -> Iterator[SpecError]:
    """Both as stored or as written: defaults are filled in where both can be read."""
    sides: list[Any] = [new, old if isinstance(old, dict) else {}]
    with suppress(ValidationError, RecursionError):
        sides = [_parse_spec(side, "ignore").model_dump(mode="json", by_alias=True) for side in sides]
    for path in IMMUTABLE:
        new_value, old_value = (_value_at(side, path.split(".")) for side in sides)
        if new_value != old_value:
            yield SpecError(f"spec.{path}", IMMUTABLE_MESSAGE)


def _value_at(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return without_nulls(value)


RULES: tuple[Rule, ...] = (
    nodes_min_is_at_most_max,
    nodes_and_spares_are_at_most_256,
    eval_rows_come_from_one_place,
    the_form_of_rows_is_said_once,
    output_is_not_the_checkpoint_place,
    credentials_have_one_source,
    a_tracker_has_a_key,
    places_can_be_reached,
    endpoints_are_urls,
    lists_name_each_entry_once,
    all_linear_stands_alone,
    pod_labels_are_labels,
    tolerations_are_those_of_a_pod,
    a_pod_can_ask_for_its_resources,
    a_process_has_a_gpu,
)


def _idle_ranks(spec: FineTuneJobSpec) -> Iterator[str]:
    ranks = spec.resources.nodes.max * spec.resources.processes_per_node
    rows = spec.training.global_batch_size
    if rows < ranks:
        idle = f"rank {rows}" if rows == ranks - 1 else f"ranks {rows} to {ranks - 1}"
        nodes = counted(spec.resources.nodes.max, "node")
        gang = f"{counted(ranks, 'rank')} ({nodes} x {spec.resources.processes_per_node})"
        yield f"spec.training.globalBatchSize: {counted(rows, 'row')} for {gang}: {idle} will stay idle; raise it to {ranks} or use fewer"


def _credentials_in_the_clear(spec: FineTuneJobSpec) -> Iterator[str]:
    """S3 requests are signed, but carry the token of a session and all bytes as they are; a tracker gets its key with every request."""
    has_credentials = spec.storage.secret_name is not None or spec.storage.service_account_name is not None
    named = (
        ("spec.storage.endpoint", spec.storage.endpoint if has_credentials else None, "session tokens, data and adapters"),
        ("spec.tracking.endpoint", spec.tracking.endpoint if spec.tracking.report_to else None, "WANDB_API_KEY"),
    )
    for path, url, what in named:
        with suppress(ValueError):
            if url is not None and url.startswith("http://") and is_beyond_the_cluster(parse_endpoint(url).host):
                yield f"{path}: {what} can be read in transit: http:// is not encrypted, and the host is outside the cluster; use https://"


def _held_out_rows_are_trained_on(spec: FineTuneJobSpec) -> Iterator[str]:
    if spec.dataset.eval_uri is not None and spec.dataset.eval_uri.rstrip("/") == spec.dataset.uri.rstrip("/"):
        yield "spec.dataset.evalUri: is the same place as spec.dataset.uri, so evalLoss says nothing about unseen rows; use evalFraction"
