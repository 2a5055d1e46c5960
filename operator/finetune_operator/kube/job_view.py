"""Reads a FineTuneJob as the API server holds it: tolerant of fields that this version does not know, and never raising.

A definition that is newer than this operator adds fields with defaults to every stored job at once: no reason to leave a job alone.
What does not fit the fields that are known (a word of a later version, a key that is too long) makes the job unreadable.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import JobStatus
from finetune_operator.kube.merge_patch import diff
from finetune_operator.kube.shape import JsonObject, entries, section, text, whole
from finetune_operator.reconcile.ports import Key

_MAX_MESSAGE = 1000


@dataclass(frozen=True, kw_only=True)
class JobIdentity:
    """What every stored object has, whatever else is in it."""

    key: Key
    uid: str
    version: str


@dataclass(frozen=True, kw_only=True)
class UnreadableJob:
    """`message` names the field, what came, and what was wanted; `conditions` and `generation` are as they are stored."""

    identity: JobIdentity
    message: str
    conditions: tuple[JsonObject, ...]
    generation: int


def parse_identity(item: object) -> JobIdentity | None:
    """None for what no API server would answer."""
    metadata = section(item, "metadata")
    namespace, name, uid, version = (text(metadata, key) for key in ("namespace", "name", "uid", "resourceVersion"))
    return JobIdentity(key=(namespace, name), uid=uid, version=version) if namespace and name and uid and version else None


def parse_job(item: object) -> FineTuneJob | UnreadableJob | None:
    """None for what is no job at all."""
    identity = parse_identity(item)
    if identity is None or not isinstance(item, dict):
        return None
    try:
        return FineTuneJob.model_validate(item, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])[:300]
        came = f", not {first['input']!r:.80}" if isinstance(first["input"], str | int | float) else ""
        message = (
            f"{path}: {first['msg']}{came}; this version of the operator cannot read the job: change the field or upgrade the operator"
        )
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        message = f"this version of the operator cannot read the job: {type(error).__name__}"
    conditions = tuple(entries(section(item, "status"), "conditions"))
    generation = whole(section(item, "metadata"), "generation") or 0
    return UnreadableJob(identity=identity, message=message[:_MAX_MESSAGE], conditions=conditions, generation=generation)


def render_status(status: JobStatus) -> JsonObject:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def render_status_patch(job: FineTuneJob, stored_status: JsonObject, status: JobStatus) -> JsonObject | None:
    """The merge patch with which `job` gets `status`, valid for the version that was read only; None when nothing would change."""
    change = diff(stored_status, render_status(job.status), render_status(status))
    if not change:
        return None
    return {"metadata": {"uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version}, "status": change}


def render_unreadable_patch(job: UnreadableJob, now: str) -> JsonObject | None:
    """The condition Stalled, beside whatever else stands in the status; None when it says so already, and for a job that has ended."""
    conditions = job.conditions
    if any(text(entry, "type") in {"Complete", "Failed"} and text(entry, "status") == "True" for entry in conditions):
        return None
    before = next((entry for entry in conditions if entry.get("type") == "Stalled"), None)
    if before is not None and (before.get("status"), before.get("reason"), before.get("message")) == ("True", "Unreadable", job.message):
        return None
    since = text(before, "lastTransitionTime") if before is not None and before.get("status") == "True" else now
    stalled = {
        "type": "Stalled",
        "status": "True",
        "reason": "Unreadable",
        "message": job.message,
        "observedGeneration": job.generation,
        "lastTransitionTime": since or now,
    }
    metadata = {"uid": job.identity.uid, "resourceVersion": job.identity.version}
    return {"metadata": metadata, "status": {"conditions": [*_others(conditions), stalled]}}


def _others(conditions: Iterable[JsonObject]) -> list[JsonObject]:
    return [entry for entry in conditions if entry.get("type") != "Stalled"]
