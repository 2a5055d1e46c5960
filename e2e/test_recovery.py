"""Whatever happens to pods, workers and operator: the run goes on from the newest state and ends with the same bytes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.faults.ledger import Figures

from e2e.faults import LONG, Undisturbed, cordoned, force_delete, in_training, strike, survived, wait_node_ready
from e2e.fixtures import Product
from e2e.harness.cluster import Cluster
from e2e.history import recorded_history, versions
from e2e.product import JsonObject, Kubectl, Team, wait_until
from e2e.steps import watching_steps

LONGEST_PAUSE_SECONDS = 5.0  # make bench-recovery measures it; this only tells a pause from a recovery on a busy machine
LEAVING = 143


@pytest.mark.fault(4)
def test_a_deleted_pod_trains_until_its_replacement_is_ready(team: Team, undisturbed: Undisturbed, figures: Figures) -> None:
    job = in_training(team, "pod-deleted", training=LONG)
    victim = job.live_pods()[0]
    with watching_steps(job.name) as watch, recorded_history(job.kubectl) as history:
        wound = strike(job, figures)
        job.kubectl.run("delete", "pod", victim["metadata"]["name"], "--wait=false")
        account = survived(wound, undisturbed, disruptions=1, max_lost_steps=0)
        codes = {exit_code(pod) for pod in versions(history.pods) if pod["metadata"]["uid"] == victim["metadata"]["uid"]}
    assert watch.longest_pause(since=wound.at.timestamp()) < LONGEST_PAUSE_SECONDS
    assert codes - {None} == {LEAVING}, "a pod that Succeeded would keep its place in a group"
    assert_in_order([note.split(":")[0] for note in account.notes], "Admitted", "TrainingStarted", "MemberLost", "Resumed", "Completed")


@pytest.mark.fault(5)
def test_a_force_deleted_pod_is_replaced_and_its_process_is_fenced(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    """Its kubelet does not see the deletion, so that the process outlives its pod as long as it likes."""
    job = in_training(team, "pod-force-deleted")
    operators = {pod["spec"]["nodeName"] for pod in product.operator_pods()}
    victim = next(pod for pod in job.live_pods() if pod["spec"]["nodeName"] not in operators)
    node, uid = victim["spec"]["nodeName"], victim["metadata"]["uid"]
    with unattended(nodes_under_control, job.kubectl, node):
        formation = job.status["formation"]["number"]
        wound = strike(job, figures)
        force_delete(job, victim)
        wait_until("the next formation", lambda: job.status["formation"]["number"] > formation, deadline_seconds=60)
        wait_until("its first step", lambda: "firstStepAt" in job.status["formation"], deadline_seconds=60)
        assert nodes_under_control.processes_in_pod(node, uid), "the old process was to live on"
        account = survived(wound, undisturbed, disruptions=1, max_lost_steps=1)
        assert account.status["lastCommit"]["formation"] > formation
        said = nodes_under_control.log_of_pod(node, uid)
    assert "401" in said, f"a pod that is gone has no channel any more; its agent said: {said[-1000:]}"


@pytest.mark.fault(1)
def test_a_killed_worker_is_a_crash_and_its_pod_stays(
    team: Team, undisturbed: Undisturbed, figures: Figures, kill_worker: Callable[[JsonObject], None]
) -> None:
    job = in_training(team, "worker-killed")
    before = {pod["metadata"]["uid"] for pod in job.live_pods()}
    wound = strike(job, figures)
    kill_worker(job.live_pods()[0])
    wait_until("a restart", lambda: job.status["restarts"]["crashes"] >= 1, deadline_seconds=30)
    assert {pod["metadata"]["uid"] for pod in job.live_pods()} == before
    account = survived(wound, undisturbed, crashes=1, replaced=0, max_lost_steps=1)
    assert account.recoveries[0]["failureClass"] == "Infrastructure"


@pytest.mark.fault(27)
def test_training_goes_on_while_the_operator_is_killed(team: Team, undisturbed: Undisturbed, figures: Figures, product: Product) -> None:
    job = in_training(team, "operator-killed")
    before = {pod["metadata"]["uid"] for pod in job.live_pods()}
    wound = strike(job, figures)
    product.kill_operator()
    survived(wound, undisturbed, replaced=0, max_lost_steps=0)
    assert {pod["metadata"]["uid"] for pod in job.pods()} <= before


def assert_in_order(events: list[str], *wanted: str) -> None:
    rest = iter(events)
    missing = [reason for reason in wanted if reason not in rest]
    assert not missing, f"{missing} not in this order in {events}"


def exit_code(pod: JsonObject) -> int | None:
    for status in pod["status"].get("containerStatuses", []):
        if "terminated" in status["state"]:
            return int(status["state"]["terminated"]["exitCode"])
    return None


@contextmanager
def unattended(cluster: Cluster, kubectl: Kubectl, node: str) -> Iterator[None]:
    """The node's pods run on, nobody ends or starts one, and no new one comes."""
    with cordoned(kubectl, node):
        cluster.stop_kubelet(node)
        try:
            yield
        finally:
            cluster.resume_kubelet(node)
    wait_node_ready(kubectl, node)
