"""Reads a member out of a Pod object. It keeps what decisions need and drops the rest."""

import re
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_contract.failures import FailureClass, FailureReport
from finetune_operator.api.job import KIND, LABEL_JOB, LABEL_JOB_UID, LABEL_SERIAL
from finetune_operator.decide.observed import PodPhase, PodView
from finetune_operator.kube.cache import Entry

JsonObject = dict[str, Any]
_MAX_WORDS = 500
# Waiting reasons of a healthy start; everything else keeps the container from running.
_STARTING = {"ContainerCreating", "PodInitializing"}
# Reasons of `status.reason` by which kubelet, node controller and scheduler end pods; they are no fault of the job.
_DISRUPTIONS = {"Evicted", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting", "NodeAffinity", "UnexpectedAdmissionError"}
_OUT_OF = re.compile(r"^OutOf")


def parse_pod_entry(pod: JsonObject) -> Entry[PodView] | None:
    """None for a pod that wears our labels without being owned by that job."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    owner_uid = labels.get(LABEL_JOB_UID)
    if owner_uid is None or owner_uid_of(pod) != owner_uid or not labels.get(LABEL_SERIAL, "").isdigit():
        return None
    return Entry(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        owner_key=(metadata["namespace"], labels[LABEL_JOB]),
        owner_uid=owner_uid,
        value=parse_pod(pod),
    )


def owner_uid_of(pod: JsonObject) -> str | None:
    """Uid of the FineTuneJob that controls the pod."""
    for reference in pod["metadata"].get("ownerReferences") or []:
        if reference.get("controller") and reference.get("kind") == KIND:
            return str(reference["uid"])
    return None


def parse_pod(pod: JsonObject) -> PodView:
    """`pod` must carry our labels."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    container = _container(status)
    state = container.get("state") or {}
    ended = state.get("terminated") or {}
    return PodView(
        serial=int(metadata["labels"][LABEL_SERIAL]),
        uid=metadata["uid"],
        name=metadata["name"],
        phase=PodPhase(status.get("phase") or "Pending"),
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        node=pod.get("spec", {}).get("nodeName"),
        is_deleting="deletionTimestamp" in metadata,
        ends_at=_moment(metadata.get("deletionTimestamp")),
        unschedulable=_unschedulable(status),
        waiting=_waiting(state),
        disruption=_disruption(status),
        exit_code=ended.get("exitCode"),
        is_oom_killed=ended.get("reason") == "OOMKilled",
        last_words=_last_words(ended),
    )


def _container(status: JsonObject) -> JsonObject:
    """The status of our only container."""
    return next(iter(status.get("containerStatuses") or []), {})


def _moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _conditions(status: JsonObject, kind: str) -> JsonObject | None:
    return next((entry for entry in status.get("conditions") or [] if entry["type"] == kind), None)


def _unschedulable(status: JsonObject) -> str | None:
    condition = _conditions(status, "PodScheduled")
    if condition is None or condition["status"] != "False" or condition.get("reason") != "Unschedulable":
        return None
    return (condition.get("message") or "Unschedulable")[:_MAX_WORDS]


def _waiting(state: JsonObject) -> str | None:
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason")
    if not reason or reason in _STARTING:
        return None
    message = waiting.get("message")
    return (f"{reason}: {message}" if message else reason)[:_MAX_WORDS]


def _disruption(status: JsonObject) -> str | None:
    condition = _conditions(status, "DisruptionTarget")
    if condition is not None and condition["status"] == "True":
        return str(condition.get("reason") or "DisruptionTarget")
    reason = status.get("reason") or ""
    return reason if reason in _DISRUPTIONS or _OUT_OF.match(reason) else None


def _last_words(ended: JsonObject) -> FailureReport | None:
    """The termination message, if the agent wrote it; other text (the runtime's own error) is kept as an internal failure."""
    message = (ended.get("message") or "").strip()
    if not message:
        return None
    try:
        return FailureReport.model_validate_json(message)
    except ValidationError:
        if message.startswith("{") or not ended.get("exitCode"):
            return None  # another kind of last words, such as the output of a finished agent
        return FailureReport(failure_class=FailureClass.INTERNAL, message=message[:_MAX_WORDS], exit_code=ended.get("exitCode"))
