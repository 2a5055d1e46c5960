"""What is read out of a pod, and whose pod it is."""

from datetime import UTC, datetime

import pytest
from tests.kube.builders import UID, pod_object, terminated

from finetune_contract.failures import FailureClass, FailureReport
from finetune_operator.decide.facts.observed import PodPhase, PodView
from finetune_operator.kube.cache import Entry
from finetune_operator.kube.pod_view import parse_pod, parse_pod_entry

OWNER = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "support-bot", "uid": UID, "controller": True}
WORDS = FailureReport(failure_class=FailureClass.USER_ERROR, message="row 17 has no messages", rank=0)


def test_a_running_member_is_read_whole() -> None:
    assert parse_pod(pod_object()) == PodView(
        serial=3,
        uid="pod-uid",
        name="support-bot-0a1b-3",
        phase=PodPhase.RUNNING,
        created_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
        node="node1",
    )


def condition(kind: str, status: str, **fields: str) -> dict:
    return {"conditions": [{"type": kind, "status": status, **fields}]}


@pytest.mark.parametrize(
    ("status", "field", "value"),
    [
        (condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes: cpu"), "unschedulable", "0/3 nodes: cpu"),
        (condition("PodScheduled", "True"), "unschedulable", None),
        (condition("PodScheduled", "False", reason="SchedulingGated"), "unschedulable", None),
        (condition("DisruptionTarget", "True", reason="EvictionByEvictionAPI"), "disruption", "EvictionByEvictionAPI"),
        (condition("DisruptionTarget", "False", reason="x"), "disruption", None),
        ({"phase": "Failed", "reason": "Evicted"}, "disruption", "Evicted"),
        ({"phase": "Failed", "reason": "NodeLost"}, "disruption", "NodeLost"),
        ({"phase": "Failed", "reason": "OutOfcpu"}, "disruption", "OutOfcpu"),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "disruption", None),
        ({"containerStatuses": terminated(exitCode=137, reason="OOMKilled")}, "is_oom_killed", True),
        ({"containerStatuses": terminated(exitCode=137, reason="Error")}, "is_oom_killed", False),
        ({"containerStatuses": terminated(exitCode=143, reason="Error")}, "exit_code", 143),
        ({"containerStatuses": terminated(exitCode=1, message=WORDS.model_dump_json())}, "last_words", WORDS),
        ({"containerStatuses": terminated(exitCode=0, message="")}, "last_words", None),
        ({"containerStatuses": terminated(exitCode=0, message="all done")}, "last_words", None),
        (
            {"containerStatuses": terminated(exitCode=128, message="exec: no such file")},
            "last_words",
            FailureReport(failure_class=FailureClass.INTERNAL, message="exec: no such file", exit_code=128),
        ),
        (
            {"containerStatuses": [{"name": "agent", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]},
            "waiting",
            "ImagePullBackOff: not found",
        ),
        ({"containerStatuses": [{"name": "agent", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, "waiting", None),
        ({"phase": "Pending", "containerStatuses": None}, "phase", PodPhase.PENDING),
        ({"podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]}, "addresses", {"10.0.0.7", "fd00::7"}),
        ({"podIPs": [{"ip": 7}, {}, "10.0.0.7"]}, "addresses", frozenset()),
    ],
)
def test_what_kubernetes_says_is_kept(status, field, value) -> None:
    assert getattr(parse_pod(pod_object(status=status)), field) == value


def test_a_deleting_pod_tells_when_it_is_killed() -> None:
    view = parse_pod(pod_object(metadata={"deletionTimestamp": "2026-01-01T00:03:00Z", "deletionGracePeriodSeconds": 30}))
    assert (view.is_deleting, view.ends_at) == (True, datetime(2026, 1, 1, 0, 3, tzinfo=UTC))


def test_a_pod_belongs_to_the_job_that_controls_it() -> None:
    entry = parse_pod_entry(pod_object())
    assert isinstance(entry, Entry)
    assert (entry.owner_key, entry.owner_uid, entry.resource_version) == (("team-a", "support-bot"), UID, "200")


@pytest.mark.parametrize(
    "metadata",
    [
        {"ownerReferences": None},
        {"ownerReferences": [{"kind": "FineTuneJob", "uid": "another", "controller": True}]},
        {"ownerReferences": [{"kind": "ReplicaSet", "uid": UID, "controller": True}]},
        {"ownerReferences": [{"kind": "FineTuneJob", "uid": UID}]},
        {"ownerReferences": [OWNER | {"apiVersion": "evil.example/v1"}]},
        {"ownerReferences": [OWNER | {"apiVersion": "finetune.dev.evil.example/v1"}]},
        {"ownerReferences": [OWNER | {"apiVersion": None}]},
        {"ownerReferences": [OWNER | {"controller": "true"}]},
        {"ownerReferences": [OWNER | {"uid": ""}]},
        {"ownerReferences": [OWNER | {"name": None}]},
        {"ownerReferences": "support-bot"},
    ],
)
def test_a_pod_that_only_wears_our_labels_is_nobodys(metadata) -> None:
    assert parse_pod_entry(pod_object(metadata=metadata)) is None


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {"finetune.dev/job": None},
        {"finetune.dev/job-uid": "another"},
        {"finetune.dev/serial": "three"},
        {"finetune.dev/serial": "\u00b2"},
        {"finetune.dev/serial": "9" * 63},
    ],
)
def test_labels_do_not_decide_whose_pod_it_is(labels) -> None:
    entry = parse_pod_entry(pod_object(metadata={"labels": labels}))
    assert isinstance(entry, Entry)
    assert (entry.owner_key, entry.owner_uid) == (("team-a", "support-bot"), UID)


def test_a_phase_of_a_later_kubernetes_says_nothing() -> None:
    assert parse_pod(pod_object(status={"phase": "Resizing"})).phase is PodPhase.UNKNOWN


def test_a_status_that_cannot_be_understood_hides_no_member() -> None:
    entry = parse_pod_entry(pod_object(status={"phase": ["Running"], "containerStatuses": "none", "conditions": 7}))
    assert isinstance(entry, Entry)
    assert (entry.uid, entry.value.phase) == ("pod-uid", PodPhase.UNKNOWN)


SIDECAR = {"name": "a-mesh", "state": {"running": {}}}
FAILED_INIT = {"name": "setup", "state": {"terminated": {"exitCode": 3, "reason": "Error", "message": "no route"}}}


@pytest.mark.parametrize("order", [1, -1], ids=["sidecar first", "sidecar last"])
def test_a_sidecar_hides_nothing_and_keeps_no_member_alive(order) -> None:
    statuses = [SIDECAR, *terminated(exitCode=137, reason="OOMKilled")][::order]
    view = parse_pod(pod_object(status={"phase": "Running", "containerStatuses": statuses}))
    assert (view.exit_code, view.is_oom_killed, view.is_over) == (137, True, True)
    assert view.holds_room, "until somebody deletes the pod"


@pytest.mark.parametrize(("others", "holds_room"), [([], False), (terminated(exitCode=0), False), ([{}], True), ([SIDECAR], True)])
def test_a_pod_that_is_about_to_be_over_is_left_as_it_is(others, holds_room) -> None:
    """Kubernetes tells of the container's end first and of the pod's a moment later; deleted in between, it has no logs."""
    statuses = [*terminated(exitCode=137), *({**other, "name": "a-mesh"} for other in others)]
    view = parse_pod(pod_object(status={"phase": "Running", "containerStatuses": statuses}))
    assert (view.is_over, view.is_kept_by_others, view.holds_room) == (True, holds_room, holds_room)


@pytest.mark.parametrize(("code", "phase"), [(0, PodPhase.SUCCEEDED), (1, PodPhase.FAILED), (143, PodPhase.FAILED)])
def test_a_member_has_ended_as_its_agent_has_while_another_container_goes_on(code, phase) -> None:
    statuses = [SIDECAR, *terminated(exitCode=code)]
    assert parse_pod(pod_object(status={"phase": "Running", "containerStatuses": statuses})).phase is phase


def test_a_sidecar_that_ended_ends_no_member() -> None:
    ended = {"name": "a-log", "state": {"terminated": {"exitCode": 1, "message": WORDS.model_dump_json()}}}
    running = {"name": "agent", "state": {"running": {}}}
    view = parse_pod(pod_object(status={"phase": "Running", "containerStatuses": [ended, running]}))
    assert (view.is_over, view.exit_code, view.last_words) == (False, None, None)


def test_an_init_container_that_failed_is_named() -> None:
    waiting = {"name": "agent", "state": {"waiting": {"reason": "PodInitializing"}}}
    view = parse_pod(pod_object(status={"phase": "Failed", "initContainerStatuses": [FAILED_INIT], "containerStatuses": [waiting]}))
    assert view.last_words is not None
    assert view.last_words.message == "init container setup ended with exit code 3: no route"


def test_an_init_container_that_cannot_start_is_named() -> None:
    init = {"name": "setup", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    view = parse_pod(pod_object(status={"phase": "Pending", "initContainerStatuses": [init], "containerStatuses": None}))
    assert view.waiting == "init container setup: ImagePullBackOff: not found"
