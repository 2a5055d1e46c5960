"""Faults done to a training job, and what each must leave behind: the same bytes, few lost steps, a true account, no pod too many.

Numbers of faults, in each test's marker, are those of docs/faults.md. How a fault is done to a node or a process is in the harness.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import pytest
from tests.faults.ledger import Figures

from e2e.fixtures import Product
from e2e.product import Job, JsonObject, Kubectl, NotReached, Team, wait_until

LONGEST = {"epochs": 40}  # for what takes a grace period, or the minute in which a changed Secret reaches a pod
LONGER = {"epochs": 10}  # for what lasts 20 s, or needs two commits at a distance
LONG = {"epochs": 6}  # for a warned loss: the replacement has to import torch while the others train on
SHORT = {"epochs": 4}  # for all other faults: nobody trains until the replacement is there
ENDED = {"Succeeded", "Failed"}
MAINTENANCE = "finetune.dev/e2e-maintenance"


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """Runs that nothing happened to, one for each length."""

    team: Team
    known: dict[int, str] = field(default_factory=dict)

    def sha256(self, job: Job) -> str:
        """Of the adapter that `job` has to end with."""
        return self.sha256_of(int(job.object["spec"]["training"]["epochs"]))

    def sha256_of(self, epochs: int) -> str:
        if epochs not in self.known:
            job = self.team.submit(f"undisturbed-{epochs}", training={"epochs": epochs})
            self.known[epochs] = str(job.wait_complete(deadline_seconds=120.0 + 30.0 * epochs)["output"]["sha256"])
        return self.known[epochs]


@pytest.fixture(scope="session")
def undisturbed(session_team: Team) -> Undisturbed:
    return Undisturbed(team=session_team)


@dataclass(frozen=True, kw_only=True)
class Wound:
    """What is done to a job at a moment of this machine's clock, which is also that of all nodes."""

    job: Job
    at: datetime
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class Account:
    """What status and events tell of a job that has come to its end."""

    wound: Wound
    status: JsonObject
    notes: tuple[str, ...]

    @cached_property
    def recoveries(self) -> list[JsonObject]:
        """Those since the fault; make before break begins one only when its replacement is ready."""
        return [entry for entry in self.status.get("recoveries", []) if moment(entry["at"]) >= self.wound.at]

    @property
    def lost_steps(self) -> int:
        return sum(entry.get("lostSteps", 0) for entry in self.recoveries)

    @property
    def seconds_to_detection(self) -> float:
        return seconds_between(self.wound.at, moment(self.recoveries[0]["at"]))

    @property
    def seconds_to_next_step(self) -> float:
        """Without a step; training goes on while the replacement of a warned loss is prepared."""
        if not self.recoveries:
            return 0.0
        last = self.recoveries[-1]
        end = moment(last["at"]) + timedelta(seconds=last["totalSeconds"])
        return seconds_between(moment(last["at"]) if is_warned(last) else self.wound.at, end)

    def tells(self, *words: str) -> bool:
        """One event has all these words."""
        return any(all(word in note for word in words) for note in self.notes)


def is_warned(recovery: JsonObject) -> bool:
    """The formation was left for one without the member that leaves: nothing had to be found."""
    return bool(recovery.get("kind") == "loss" and recovery.get("detectSeconds") == 0)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def seconds_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


def in_training(team: Team, name: str, **changes: Any) -> Job:
    """A job that has made a few steps and has a commit in the store."""
    job = team.submit(name, **{"training": SHORT, **changes})
    job.wait_phase("Training", deadline_seconds=120)
    wait_until(f"a commit of {name}", lambda: job.last_commit_step() > 0, deadline_seconds=60)
    if job.status["phase"] != "Training":
        raise NotReached(f"{name} ended before it could be disturbed: {job.status['phase']}")
    return job


def strike(job: Job, figures: Figures) -> Wound:
    """To be called right before the fault is done."""
    return Wound(job=job, at=datetime.now(UTC), figures=figures)


def survived(
    wound: Wound,
    undisturbed: Undisturbed,
    *,
    disruptions: int | range = 0,
    crashes: int | range = 0,
    replaced: int | range = 1,
    max_lost_steps: int,
) -> Account:
    """Wait for the end and assert what holds after every fault; `replaced`: how many members were ever made beyond the first two."""
    account = came_through(wound, undisturbed)
    counted = account.status.get("restarts", {})
    assert counted.get("disruptions", 0) in numbers(disruptions), account.status["recoveries"]
    assert counted.get("crashes", 0) in numbers(crashes), account.status["recoveries"]
    assert account.status["lastSerial"] - 2 in numbers(replaced), account.notes
    assert account.lost_steps <= max_lost_steps, account.recoveries
    return account


def came_through(wound: Wound, undisturbed: Undisturbed) -> Account:
    """Wait for the end and tell the figures; the bytes are those of the run that nothing happened to, and no pod is left."""
    status = wound.job.wait_complete()
    nothing_left(wound.job)
    account = Account(wound=wound, status=status, notes=tuple(notes(wound.job)))
    is_same = status["output"]["sha256"] == undisturbed.sha256(wound.job)
    wound.figures.tell(seconds=account.seconds_to_next_step, lost_steps=account.lost_steps, same_bytes=is_same)
    assert is_same, status["recoveries"]
    return account


def numbers(allowed: int | range) -> range:
    return range(allowed, allowed + 1) if isinstance(allowed, int) else allowed


def nothing_left(job: Job) -> None:
    """Ended pods stay for their logs; no other pod outlives its job."""

    def are_ended() -> bool:
        return all(pod["status"].get("phase") in ENDED for pod in job.kubectl.items("pods", "-l", f"finetune.dev/job={job.name}"))

    wait_until(f"the end of all pods of {job.name}", are_ended, deadline_seconds=60)


def notes(job: Job) -> list[str]:
    """Events as `REASON: note`, oldest first."""
    found = job.kubectl.items("events.events.k8s.io", "--field-selector", f"regarding.name={job.name}")
    ordered = sorted(found, key=lambda event: event.get("eventTime") or event["metadata"]["creationTimestamp"])
    return [f"{event['reason']}: {event['note']}" for event in ordered]


def told_reason(job: Job) -> str:
    """As `kubectl get` could show it."""
    return str(job.status.get("columns", {}).get("reason", ""))


def steps_within(job: Job, seconds: float) -> int:
    """How many steps may be done in so long a time."""
    return int(seconds / max(job.status["progress"]["stepSeconds"], 0.001)) + 1


def member_of_node_rank(job: Job, node_rank: int) -> JsonObject:
    serial = str(job.status["formation"]["serials"][node_rank])
    return next(pod for pod in job.live_pods() if pod["metadata"]["labels"]["finetune.dev/serial"] == serial)


def member_away_from_the_operator(job: Job, product: Product) -> JsonObject:
    """A member whose node can be lost without losing the operator."""
    nodes = {pod["spec"].get("nodeName") for pod in product.operator_pods()}
    return next(pod for pod in job.live_pods() if pod["spec"]["nodeName"] not in nodes)


def force_delete(job: Job, *pods: JsonObject) -> None:
    names = [pod["metadata"]["name"] for pod in pods]
    job.kubectl.run("delete", "pod", *names, "--force", "--grace-period=0", "--wait=false")


def evict(job: Job, pod: JsonObject) -> None:
    """As `kubectl drain` and cluster autoscalers do it."""
    metadata = {"name": pod["metadata"]["name"], "namespace": job.kubectl.namespace}
    order = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/eviction"
    job.kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(order))


@contextmanager
def tainted(kubectl: Kubectl, node: str) -> Iterator[None]:
    """NoExecute: the taint manager deletes all pods of the node that do not tolerate it."""
    kubectl.run("taint", "node", node, f"{MAINTENANCE}=:NoExecute")
    try:
        yield
    finally:
        kubectl.run("taint", "node", node, f"{MAINTENANCE}-")


@contextmanager
def drained(kubectl: Kubectl, node: str) -> Iterator[None]:
    """Returns when the node is empty."""
    try:
        kubectl.run("drain", node, "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=100s")
        yield
    finally:
        kubectl.run("uncordon", node)


@contextmanager
def cordoned(kubectl: Kubectl, *nodes: str) -> Iterator[None]:
    """No new pod comes to these nodes."""
    kubectl.run("cordon", *nodes)
    try:
        yield
    finally:
        kubectl.run("uncordon", *nodes)


def wait_node_ready(kubectl: Kubectl, node: str) -> None:
    """Ready, and the taints of its absence are gone."""

    def is_ready() -> bool:
        found = kubectl.get("node", node)
        assert found is not None
        states = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
        return states["Ready"] == "True" and not found["spec"].get("taints")

    wait_until(f"{node} Ready", is_ready, deadline_seconds=90)
