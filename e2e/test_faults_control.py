"""The store, its credentials, name server and image fail beside a running job."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.faults.ledger import Figures

from e2e.faults import (
    LONG,
    LONGER,
    LONGEST,
    Undisturbed,
    cordoned,
    force_delete,
    in_training,
    notes,
    nothing_left,
    steps_within,
    strike,
    survived,
    told_reason,
)
from e2e.harness.cluster import Cluster
from e2e.harness.harm import frozen_name_server, without_image
from e2e.harness.images import Images
from e2e.product import Job, JsonObject, Team, wait_until
from e2e.steps import watching_steps

ROTATION_SECONDS = 60.0  # the kubelet looks after a Secret every ten seconds (harness/node.py), the agent at each use
LONGEST_PAUSE_SECONDS = 5.0
SPARSE = {"minIntervalSeconds": 4, "keep": 3}
ABSENT_IMAGE = "localhost/absent:1"


@pytest.mark.fault(19)
def test_a_damaged_commit_is_named_and_the_one_before_is_taken(
    team: Team, undisturbed: Undisturbed, figures: Figures, s3: Any, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "commit-damaged", training=LONGER, checkpoint=SPARSE)
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


@pytest.mark.slow
@pytest.mark.fault(36)
def test_a_replacement_without_its_image_is_named_and_the_job_goes_on_when_it_is_there(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster, images: Images
) -> None:
    job = in_training(team, "image-gone")
    members = job.live_pods()
    busy = {pod["spec"]["nodeName"] for pod in members}
    free = next(node for node in nodes_under_control.nodes if node not in busy)
    with cordoned(job.kubectl, *busy):
        with without_image(nodes_under_control, free, images.trainer):
            wound = strike(job, figures)
            force_delete(job, members[-1])
            wait_until("the reason in status", lambda: told_reason(job) == "ContainerWaiting", deadline_seconds=60)
            told = " ".join(condition["message"] for condition in job.status["conditions"])
            assert images.trainer in told
        survived(wound, undisturbed, disruptions=1, max_lost_steps=1)


@pytest.mark.slow
@pytest.mark.fault(35)
def test_a_formation_needs_no_name_server(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster, kill_worker: Callable[[JsonObject], None]
) -> None:
    job = in_training(team, "no-names", training=LONG)
    with frozen_name_server(nodes_under_control):
        begun = job.status["formation"]["number"]
        wound = strike(job, figures)
        kill_worker(job.live_pods()[0])
        wait_until("the next formation", lambda: job.status["formation"]["number"] > begun, deadline_seconds=30)
        wait_until("its first step", lambda: "firstStepAt" in job.status["formation"], deadline_seconds=30)
    survived(wound, undisturbed, crashes=1, replaced=0, max_lost_steps=1)


@pytest.mark.slow
@pytest.mark.fault(23)
def test_training_goes_on_with_wrong_credentials_and_catches_up_with_right_ones(
    team: Team, undisturbed: Undisturbed, figures: Figures
) -> None:
    job = in_training(team, "rotated", training=LONGEST)
    with watching_steps(job.name) as watch, credentials_changed(team):
        wound = strike(job, figures)
        wait_until(
            "the refusal in the events", lambda: any("StorageRefused" in note for note in notes(job)), deadline_seconds=ROTATION_SECONDS
        )
        refused_at, committed = time.time(), job.last_commit_step()
        watch.wait_steps(20, deadline_seconds=60)
        assert job.status["phase"] == "Training"
    wait_until("a commit with the right ones", lambda: job.last_commit_step() > committed, deadline_seconds=ROTATION_SECONDS)
    account = survived(wound, undisturbed, replaced=0, max_lost_steps=0)
    assert watch.longest_pause(since=refused_at) < LONGEST_PAUSE_SECONDS
    assert account.tells("StorageRefused")


@contextmanager
def credentials_changed(team: Team) -> Iterator[None]:
    """A secret key that the store does not know, for a while."""
    before = team.kubectl.get("secret", "s3-credentials")
    assert before is not None
    wrong = base64.b64encode(b"not the key").decode()
    team.kubectl.run("patch", "secret", "s3-credentials", "-p", json.dumps({"data": {"AWS_SECRET_ACCESS_KEY": wrong}}))
    try:
        yield
    finally:
        team.kubectl.run("patch", "secret", "s3-credentials", "-p", json.dumps({"data": before["data"]}))


def states(s3: Any, team: Team, job: Job) -> list[str]:
    """Keys of the job's state objects, oldest first."""
    found = s3.list_objects_v2(Bucket=team.bucket, Prefix=f"checkpoints/{job.name}/").get("Contents", [])
    return sorted(entry["Key"] for entry in found if "/state/" in entry["Key"])


def step_of(key: str) -> int:
    return int(key.rpartition("-")[2].removesuffix(".bin"))


def processes_of(cluster: Cluster, pods: list[JsonObject]) -> list[int]:
    return [pid for pod in pods for pid in cluster.processes_in_pod(pod["spec"]["nodeName"], pod["metadata"]["uid"])]
