"""Reads a member out of a Pod object. It keeps what decisions need and drops the rest."""

import re
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_contract.failures import FailureClass, FailureReport
from finetune_operator.api.job import GROUP, KIND, LABEL_SERIAL
from finetune_operator.decide.observed import PodPhase, PodView
from finetune_operator.kube.cache import Entry
from finetune_operator.kube.shape import Unreadable, entries, moment, section, text

JsonObject = dict[str, Any]
_MAX_WORDS = 500
_MAX_SERIAL_DIGITS = 10
# Waiting reasons of a healthy start; everything else keeps the container from running.
_STARTING = {"ContainerCreating", "PodInitializing"}
# Reasons of `status.reason` by which kubelet, node controller and scheduler end pods; they are no fault of the job.
_DISRUPTIONS = {"Evicted", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting", "NodeAffinity", "UnexpectedAdmissionError"}
_OUT_OF = re.compile(r"^OutOf")


def parse_pod_entry(pod: object) -> Entry[PodView] | Unreadable | None:
    """None for a pod that no FineTuneJob controls, whatever labels it wears. It raises nothing, whatever is in the object.

    Name, namespace and controller are the API server's own; a status that cannot be understood says nothing, and the pod counts on.
    Whether the job asked for this pod is not known here.
    """
    metadata = section(pod, "metadata")
    owner = controller_of(pod)
    if owner is None:
        return None
    identity = {key: text(metadata, key) for key in ("namespace", "name", "uid", "resourceVersion")}
    missing = [key for key, value in identity.items() if not value]
    created_at = moment(metadata, "creationTimestamp")
    if missing or created_at is None:
        return Unreadable(f"metadata.{missing[0] if missing else 'creationTimestamp'}")
    try:
        view = parse_pod({"spec": section(pod, "spec"), "status": section(pod, "status"), "metadata": metadata})
    except (AttributeError, KeyError, LookupError, OverflowError, RecursionError, TypeError, ValueError):
        view = PodView(serial=_serial(metadata), uid=identity["uid"], name=identity["name"], phase=PodPhase.UNKNOWN, created_at=created_at)
    return Entry(
        namespace=identity["namespace"],
        name=identity["name"],
        uid=identity["uid"],
        resource_version=identity["resourceVersion"],
        owner_key=(identity["namespace"], text(owner, "name")),
        owner_uid=text(owner, "uid"),
        value=view,
    )


def controller_of(item: object) -> JsonObject | None:
    """The owner reference of the FineTuneJob that controls the object: of our group (any version) and kind, with name and uid."""
    for reference in entries(section(item, "metadata"), "ownerReferences"):
        is_ours = text(reference, "apiVersion").partition("/")[0] == GROUP and reference.get("kind") == KIND
        if reference.get("controller") is True and is_ours and text(reference, "uid") and text(reference, "name"):
            return reference
    return None


def parse_pod(pod: JsonObject) -> PodView:
    """`pod` has the metadata that every stored pod has."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    container = _container(status)
    state = container.get("state") or {}
    ended = state.get("terminated") or {}
    return PodView(
        serial=_serial(metadata),
        uid=metadata["uid"],
        name=metadata["name"],
        phase=_phase(status),
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


def _serial(metadata: JsonObject) -> int:
    """As the label says, for order and logs alone: who has which place is told by uids."""
    label = text(section(metadata, "labels"), LABEL_SERIAL)
    return int(label) if label.isascii() and label.isdigit() and len(label) < _MAX_SERIAL_DIGITS else 0


def _phase(status: JsonObject) -> PodPhase:
    """A phase of a later Kubernetes says as little as Unknown."""
    try:
        return PodPhase(status.get("phase") or "Pending")
    except ValueError:
        return PodPhase.UNKNOWN


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
