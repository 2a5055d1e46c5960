"""The store, the operator, the API server and the image fail beside a running job."""

from typing import Any

import pytest
from tests.faults.ledger import Figures

from e2e.faults import LONG, Undisturbed, force_delete, in_training, notes, nothing_left, steps_within, strike, survived
from e2e.fixtures import Product
from e2e.harness.cluster import Cluster
from e2e.product import Job, JsonObject, Team, wait_until

SPARSE = {"minIntervalSeconds": 4, "keep": 3}
ABSENT_IMAGE = "localhost/absent:1"


@pytest.mark.fault(19)
def test_a_damaged_commit_is_named_and_the_one_before_is_taken(
    team: Team, undisturbed: Undisturbed, figures: Figures, s3: Any, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "commit-damaged", checkpoint=SPARSE)
    wait_until("two commits", lambda: len(states(s3, team, job)) >= 2, deadline_seconds=60)
    members, bound = job.live_pods(), steps_within(job, 3 * SPARSE["minIntervalSeconds"])
    wound = strike(job, figures)
    force_delete(job, *members)
    wait_until("the end of their processes", lambda: not processes_of(nodes_under_control, members), deadline_seconds=60)
    before, newest = states(s3, team, job)[-2:]
    body = s3.get_object(Bucket=team.bucket, Key=newest)["Body"].read()
    s3.put_object(Bucket=team.bucket, Key=newest, Body=body[:-1] + bytes([body[-1] ^ 1]))
    account = survived(wound, undisturbed, disruptions=1, replaced=2, max_lost_steps=bound)
    assert account.recoveries[0]["resumedStep"] == step_of(before)
    assert account.tells("CommitSkipped", newest.rpartition("/")[2], "damaged")


@pytest.mark.fault(27)
def test_an_operator_killed_while_a_member_dies_makes_one_replacement(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "both-killed")
    victim = job.live_pods()[-1]
    wound = strike(job, figures)
    nodes_under_control.kill_container(victim["spec"]["nodeName"], victim["metadata"]["uid"])
    product.kill_operator()
    account = survived(wound, undisturbed, crashes=1, max_lost_steps=1)
    assert account.tells("MemberLost", victim["metadata"]["name"])


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


@pytest.mark.fault(36)
def test_a_job_whose_image_cannot_be_pulled_says_so(team: Team, figures: Figures) -> None:
    job = team.submit("no-image", image=ABSENT_IMAGE)
    wait_until("the reason in status", lambda: job.status.get("columns", {}).get("reason") == "ContainerWaiting", deadline_seconds=60)
    told = " ".join(condition["message"] for condition in job.status["conditions"])
    assert "ImagePull" in told
    assert ABSENT_IMAGE in told
    assert not any("Failed" in note for note in notes(job))
    job.delete()
    nothing_left(job)
    figures.tell(seconds=None, lost_steps=0, same_bytes=None)


def states(s3: Any, team: Team, job: Job) -> list[str]:
    """Keys of the job's state objects, oldest first."""
    found = s3.list_objects_v2(Bucket=team.bucket, Prefix=f"checkpoints/{job.name}/").get("Contents", [])
    return sorted(entry["Key"] for entry in found if "/state/" in entry["Key"])


def step_of(key: str) -> int:
    return int(key.rpartition("-")[2].removesuffix(".bin"))


def processes_of(cluster: Cluster, pods: list[JsonObject]) -> list[int]:
    return [pid for pod in pods for pid in cluster.processes_in_pod(pod["spec"]["nodeName"], pod["metadata"]["uid"])]


def uids(pods: list[JsonObject]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def restarts_of(pod: JsonObject) -> list[int]:
    return [status["restartCount"] for status in pod["status"]["containerStatuses"]]
