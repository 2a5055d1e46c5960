"""Reads a member out of a Pod object. It keeps what decisions need and drops the rest."""

import re
from datetime import datetime
from typing import Any

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.last_words import Finished, parse_last_words
from finetune_operator.api.job import GROUP, KIND, LABEL_SERIAL
from finetune_operator.decide.facts.observed import PodPhase, PodView
from finetune_operator.kube.cache import Entry
from finetune_operator.kube.pods import CONTAINER
from finetune_operator.kube.shape import Unreadable, entries, moment, section, text

JsonObject = dict[str, Any]
_MAX_WORDS = 500
_MAX_SERIAL_DIGITS = 10
# Waiting reasons of a healthy start; everything else keeps the container from running.
_STARTING = {"ContainerCreating", "PodInitializing"}
# Reasons of `status.reason` by which kubelet, node controller and scheduler end pods; they are no fault of the job.
_DISRUPTIONS = {"Evicted", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting", "NodeAffinity", "UnexpectedAdmissionError"}
_OUT_OF = re.compile(r"^OutOf")
_KUEUE_GATE = "kueue.x-k8s.io/admission"


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
    state = _state_of_the_agent(status)
    ended = state.get("terminated") or {}
    phase, words = _phase(status), _last_words(status, ended)
    told = _phase_of_the_agent(phase, ended)
    return PodView(
        serial=_serial(metadata),
        uid=metadata["uid"],
        name=metadata["name"],
        phase=told,
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        node=pod.get("spec", {}).get("nodeName"),
        placed_at=_placed_at(status),
        addresses=frozenset(text(entry, "ip") for entry in entries(status, "podIPs")) - {""},
        is_deleting="deletionTimestamp" in metadata,
        ends_at=_moment(metadata.get("deletionTimestamp")),
        unschedulable=_unschedulable(status),
        is_captured_by_kueue=_is_captured_by_kueue(pod),
        waiting=_waiting_to_initialise(status) or _waiting(state),
        disruption=_disruption(status),
        exit_code=ended.get("exitCode"),
        is_oom_killed=ended.get("reason") == "OOMKilled",
        last_words=words if isinstance(words, FailureReport) else None,
        finished=words if isinstance(words, Finished) else None,
        is_kept_by_others=told is not phase and _others_go_on(status),
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


def _state_of_the_agent(status: JsonObject) -> JsonObject:
    """State of our container; others (a mesh, a log shipper) come by injection, in any order."""
    return next((entry.get("state") or {} for entry in status.get("containerStatuses") or [] if entry.get("name") == CONTAINER), {})


def _phase_of_the_agent(phase: PodPhase, ended: JsonObject) -> PodPhase:
    """The member is over when its agent is, for nothing of it is started again; the pod may be kept up by another container."""
    if phase in {PodPhase.SUCCEEDED, PodPhase.FAILED} or ended.get("exitCode") is None:
        return phase
    return PodPhase.SUCCEEDED if ended["exitCode"] == 0 else PodPhase.FAILED


def _others_go_on(status: JsonObject) -> bool:
    """A pod whose only container has ended has its last phase a moment later, and stays for its logs."""
    others = (entry for entry in status.get("containerStatuses") or [] if entry.get("name") != CONTAINER)
    return any("terminated" not in (entry.get("state") or {}) for entry in others)


def _placed_at(status: JsonObject) -> datetime | None:
    condition = _conditions(status, "PodScheduled")
    return _moment(condition.get("lastTransitionTime")) if condition is not None and condition["status"] == "True" else None


def _is_captured_by_kueue(pod: JsonObject) -> bool:
    """Kueue gates single pods where its pod integration is on, and in namespaces that have a default queue."""
    gates = {gate.get("name") for gate in pod.get("spec", {}).get("schedulingGates") or []}
    return _KUEUE_GATE in gates


def _waiting_to_initialise(status: JsonObject) -> str | None:
    """What keeps an injected init container from being done, by its name."""
    for entry in status.get("initContainerStatuses") or []:
        words = _waiting(entry.get("state") or {})
        if words is not None:
            return f"init container {entry.get('name')}: {words}"[:_MAX_WORDS]
    return None


def _failed_init_container(status: JsonObject) -> FailureReport | None:
    """A pod that failed before its agent ran."""
    for entry in status.get("initContainerStatuses") or []:
        ended = (entry.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            words = (ended.get("message") or ended.get("reason") or "").strip()
            message = f"init container {entry.get('name')} ended with exit code {ended['exitCode']}{f': {words}' if words else ''}"
            return FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message[:_MAX_WORDS], exit_code=ended["exitCode"])
    return None


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


def _last_words(status: JsonObject, ended: JsonObject) -> FailureReport | Finished | None:
    """The termination message, if the agent wrote it; other text (the runtime's own error) is kept as an internal failure."""
    if not ended:
        return _failed_init_container(status) if status.get("phase") == PodPhase.FAILED else None
    message, code = (ended.get("message") or "").strip(), ended.get("exitCode")
    words = parse_last_words(message)
    if words is not None or not message or message.startswith("{") or not code:
        return words
    return FailureReport(failure_class=FailureClass.INTERNAL, message=message[:_MAX_WORDS], exit_code=code)
