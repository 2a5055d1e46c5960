"""Whatever happens to pods, workers and operator: the run goes on from the newest state and ends with the same bytes."""

from collections.abc import Callable

import pytest

from e2e.fixtures import Product
from e2e.product import Job, JsonObject, NotReached, Team, wait_until

LONG = {"epochs": 10}  # a replacement has to import torch while the others train on


@pytest.fixture(scope="module")
def undisturbed(module_team: Team) -> str:
    """SHA-256 of the adapter of a run that nothing happened to."""
    status = module_team.submit("undisturbed", training=LONG).wait_complete()
    return str(status["output"]["sha256"])


def test_a_deleted_pod_costs_no_step(team: Team, undisturbed: str) -> None:
    job = started(team, "pod-deleted")
    victim = job.live_pods()[0]["metadata"]["name"]
    job.kubectl.run("delete", "pod", victim, "--wait=false")
    status = finished_with_same_bytes(job, undisturbed)
    assert status["restarts"]["disruptions"] >= 1
    assert status["restarts"]["crashes"] == 0
    assert_in_order(job.events(), "Admitted", "TrainingStarted", "MemberLost", "Resumed", "Completed")


def test_a_force_deleted_pod_is_replaced(team: Team, undisturbed: str) -> None:
    job = started(team, "pod-force-deleted")
    victim = job.live_pods()[-1]["metadata"]["name"]
    job.kubectl.run("delete", "pod", victim, "--force", "--grace-period=0")
    status = finished_with_same_bytes(job, undisturbed)
    assert status["restarts"]["disruptions"] >= 1


def test_a_killed_worker_is_a_crash_and_its_pod_stays(team: Team, undisturbed: str, kill_worker: Callable[[JsonObject], None]) -> None:
    job = started(team, "worker-killed")
    before = {pod["metadata"]["uid"] for pod in job.live_pods()}
    kill_worker(job.live_pods()[0])
    wait_until("a restart", lambda: job.status["restarts"]["crashes"] >= 1, deadline_seconds=30)
    assert {pod["metadata"]["uid"] for pod in job.live_pods()} == before
    status = finished_with_same_bytes(job, undisturbed)
    assert status["restarts"]["disruptions"] == 0
    assert status["recoveries"][-1]["failureClass"] == "Infrastructure"


def test_training_goes_on_while_the_operator_is_killed(team: Team, undisturbed: str, product: Product) -> None:
    job = started(team, "operator-killed")
    before = {pod["metadata"]["uid"] for pod in job.live_pods()}
    product.kill_operator()
    status = finished_with_same_bytes(job, undisturbed)
    assert {pod["metadata"]["uid"] for pod in job.pods()} <= before
    assert status["restarts"] in ({}, {"disruptions": 0, "crashes": 0, "crashesWithoutProgress": 0})


def started(team: Team, name: str) -> Job:
    """A job that has made a few steps and has a commit in the store."""
    job = team.submit(name, training=LONG)
    job.wait_phase("Training", deadline_seconds=120)
    wait_until(f"a commit of {name}", lambda: job.last_commit_step() > 0, deadline_seconds=60)
    if job.status["phase"] != "Training":
        raise NotReached(f"{name} ended before it could be disturbed: {job.status['phase']}")
    return job


def finished_with_same_bytes(job: Job, undisturbed: str) -> JsonObject:
    status = job.wait_complete()
    assert status["output"]["sha256"] == undisturbed
    assert status["lastCommit"]["step"] > 0
    return status


def assert_in_order(events: list[str], *wanted: str) -> None:
    rest = iter(events)
    missing = [reason for reason in wanted if reason not in rest]
    assert not missing, f"{missing} not in this order in {events}"
