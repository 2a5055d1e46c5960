"""The API server is restarted, refuses and forgets, and jobs are changed by their owners, in the middle of a recovery."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.faults.ledger import Figures

from e2e.faults import LONG, Undisturbed, in_training, nothing_left, strike, survived
from e2e.fixtures import Product
from e2e.harness.cluster import Cluster
from e2e.harness.harm import forget_history, frozen_pod
from e2e.product import RELEASE, SYSTEM, Job, JsonObject, Kubectl, Team, wait_until

REFUSED_SECONDS = 15.0


@pytest.mark.fault(28)
def test_a_restart_of_the_api_server_restarts_nothing(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "api-restarted", training=LONG)
    pods, operators = uids(job.live_pods()), uids(product.operator_pods())
    wound = strike(job, figures)
    nodes_under_control.restart_api_server()
    survived(wound, undisturbed, replaced=0, max_lost_steps=0)
    assert uids(job.pods()) == pods
    assert uids(product.operator_pods()) == operators
    assert [count for pod in product.operator_pods() for count in restarts_of(pod)] == [0]


@pytest.mark.slow
@pytest.mark.fault(28)
def test_a_restart_of_the_api_server_during_a_recovery_makes_one_replacement(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "api-restarted-too")
    wound = strike(job, figures)
    kill_last_member(nodes_under_control, job)
    nodes_under_control.restart_api_server()
    survived(wound, undisturbed, crashes=1, max_lost_steps=1)


@pytest.mark.slow
@pytest.mark.fault(28)
def test_a_watch_that_is_too_old_is_begun_anew(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    """While the operator stands still a member is lost, history is compacted, and a new API server knows no older version."""
    job, leader = in_training(team, "compacted"), product.leader()
    with frozen_pod(nodes_under_control, leader["spec"]["nodeName"], leader["metadata"]["uid"]):
        wound = strike(job, figures)
        kill_last_member(nodes_under_control, job)
        wait_until("the member's end", lambda: len(job.live_pods()) == 1, deadline_seconds=30)
        job.kubectl.run("annotate", "finetunejob", job.name, "finetune.dev/e2e=newer")
        forget_history()
        nodes_under_control.restart_api_server()
    survived(wound, undisturbed, crashes=1, max_lost_steps=1)


@pytest.mark.slow
@pytest.mark.fault(28)
def test_conflicting_writes_delay_nothing_but_themselves(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "conflicts")
    with written_all_the_time(job) as writes:
        wound = strike(job, figures)
        kill_last_member(nodes_under_control, job)
        survived(wound, undisturbed, crashes=1, max_lost_steps=1)
    assert len(writes) > 20


@pytest.mark.slow
@pytest.mark.fault(28)
def test_an_operator_that_is_refused_by_a_busy_api_server_goes_on_later(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "too-many-requests")
    with refused_with_429(product.kubectl):
        wound = strike(job, figures)
        kill_last_member(nodes_under_control, job)
        threading.Event().wait(REFUSED_SECONDS)
    survived(wound, undisturbed, crashes=1, max_lost_steps=1)


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_job_deleted_in_mid_recovery_leaves_nothing(team: Team, figures: Figures, nodes_under_control: Cluster) -> None:
    job = in_training(team, "deleted-hurt")
    kill_last_member(nodes_under_control, job)
    wait_until("the recovery", lambda: job.status["phase"] == "Recovering", deadline_seconds=30)
    job.delete()
    nothing_left(job)
    wait_until("no pods", lambda: not job.kubectl.items("pods", "-l", f"finetune.dev/job={job.name}"), deadline_seconds=90)
    wait_until("no ConfigMaps", lambda: not maps_of(job), deadline_seconds=60)
    figures.tell(seconds=None, lost_steps=None, same_bytes=None)


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_job_suspended_in_mid_recovery_saves_and_goes_on_later(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "suspended-hurt")
    wound = strike(job, figures)
    kill_last_member(nodes_under_control, job)
    change(job, {"suspend": True})
    job.wait_phase("Suspended", deadline_seconds=90)
    wait_until("no pods", lambda: not job.live_pods(), deadline_seconds=90)
    saved, status = job.last_commit_step(), job.status
    assert saved >= status["progress"]["step"] - 1, "what the survivor held is in the store"
    change(job, {"suspend": False})
    account = survived(wound, undisturbed, crashes=range(2), disruptions=range(2), replaced=range(2, 4), max_lost_steps=1)
    assert account.status["formation"]["resumedStep"] >= saved


@pytest.mark.slow
@pytest.mark.fault(29)
def test_a_job_made_smaller_in_mid_recovery_goes_on_with_the_same_bytes(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "smaller")
    wound = strike(job, figures)
    kill_last_member(nodes_under_control, job)
    wait_until("the recovery", lambda: job.status["phase"] == "Recovering", deadline_seconds=30)
    change(job, {"resources": {"nodes": {"min": 1, "max": 1}}})
    # Whether the place was given up before or after the end of its pod was seen decides which of the two is counted.
    account = survived(wound, undisturbed, crashes=range(2), disruptions=range(2), replaced=range(2), max_lost_steps=1)
    assert len(account.recoveries) == 1
    assert len(account.status["formation"]["serials"]) == 1


def change(job: Job, spec: JsonObject) -> None:
    job.kubectl.run("patch", "finetunejob", job.name, "--type=merge", "-p", json.dumps({"spec": spec}))


def kill_last_member(cluster: Cluster, job: Job) -> None:
    victim = job.live_pods()[-1]
    cluster.kill_container(victim["spec"]["nodeName"], victim["metadata"]["uid"])


def maps_of(job: Job) -> list[JsonObject]:
    return [one for one in job.kubectl.items("configmaps") if one["metadata"]["name"].startswith(f"{job.name}-")]


@contextmanager
def written_all_the_time(job: Job) -> Iterator[list[int]]:
    """Somebody else changes the job as fast as kubectl can, so that the operator's writes meet a newer version."""
    end, writes = threading.Event(), list[int]()

    def write() -> None:
        while not end.is_set():
            job.kubectl.run("annotate", "finetunejob", job.name, "--overwrite", f"finetune.dev/e2e={len(writes)}", check=False)
            writes.append(1)

    writers = [threading.Thread(target=write, daemon=True) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        yield writes
    finally:
        end.set()
        for writer in writers:
            writer.join()


@contextmanager
def refused_with_429(kubectl: Kubectl) -> Iterator[None]:
    """Priority and fairness leaves no seat to the operator's account: the API server answers all its requests with 429."""
    account = kubectl.within(SYSTEM).items("serviceaccounts", "-l", f"app.kubernetes.io/instance={RELEASE}")[0]["metadata"]["name"]
    api, name = "flowcontrol.apiserver.k8s.io/v1", {"name": "e2e-no-seats"}
    limited = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}
    level = {"apiVersion": api, "kind": "PriorityLevelConfiguration", "metadata": name, "spec": {"type": "Limited", "limited": limited}}
    subject = {"kind": "ServiceAccount", "serviceAccount": {"name": account, "namespace": SYSTEM}}
    everything = {
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }
    rules = [{"subjects": [subject], **everything}]
    spec = {"priorityLevelConfiguration": name, "matchingPrecedence": 2, "rules": rules}
    for manifest in (level, {"apiVersion": api, "kind": "FlowSchema", "metadata": name, "spec": spec}):
        answer = kubectl.apply(manifest)
        assert answer.returncode == 0, answer.stderr
    try:
        yield
    finally:
        kubectl.run("delete", "flowschema", name["name"])
        kubectl.run("delete", "prioritylevelconfiguration", name["name"])


def uids(pods: list[JsonObject]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def restarts_of(pod: JsonObject) -> list[int]:
    return [status["restartCount"] for status in pod["status"]["containerStatuses"]]
