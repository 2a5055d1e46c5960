"""What one tenant does is paid by that tenant: a crowd of refused jobs, and pods that pretend to be members."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.faults import in_training
from e2e.fixtures import Product, make_team
from e2e.product import Job, JsonObject, Team, wait_until
from finetune_operator.api.job import LABEL_SERIAL

NUM_REFUSED = 100
NUM_TRIALS = 5
NO_IMAGE = "localhost/nobody-has-it:1"
PATIENCE_SECONDS = 1.0  # that a crowd may cost somebody else


@pytest.fixture
def noisy_team(product: Product, inputs: None, s3: Any, s3_settings: Any) -> Iterator[Team]:
    yield from make_team(product, s3, s3_settings)


def seconds_until_it_has_pods(team: Team, name: str) -> tuple[float, float]:
    """(until the API server has taken the job, until its pods are there).

    Nothing of the pods starts: members that import torch would take the cores from the operator, and that is what would be measured.
    """
    began = time.monotonic()
    job = team.submit(name, image=NO_IMAGE)
    taken = time.monotonic() - began
    wait_until("its pods", lambda: len(job.pods()) == 2, deadline_seconds=120, every_seconds=0.05)
    whole = time.monotonic() - began
    job.delete()
    return taken, whole


def medians(team: Team, what: str) -> tuple[float, float]:
    trials = [seconds_until_it_has_pods(team, f"{what}-{number}") for number in range(NUM_TRIALS)]
    return statistics.median(taken for taken, _ in trials), statistics.median(whole for _, whole in trials)


@pytest.mark.slow
def test_a_crowd_of_jobs_that_a_quota_refuses_delays_nobody_else(team: Team, noisy_team: Team) -> None:
    """All parts of the cluster share the cores of one machine: as much slower as the API server takes a job, so much slower is a start."""
    taken_alone, alone = medians(team, "alone")
    noisy_team.kubectl.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    crowd = [noisy_team.manifest(f"refused-{number}") for number in range(NUM_REFUSED)]
    noisy_team.kubectl.apply({"apiVersion": "v1", "kind": "List", "items": crowd})
    taken_beside, beside = medians(team, "beside")
    assert noisy_team.kubectl.items("pods") == []
    told = f"{alone:.2f} s alone, {beside:.2f} s beside {NUM_REFUSED} refused jobs; taken in {taken_alone:.2f} and {taken_beside:.2f} s"
    print(told)
    assert beside <= alone * max(1.0, taken_beside / taken_alone) + PATIENCE_SECONDS, told


def a_pretender(job: Job, name: str, **labels: str) -> JsonObject:
    """Sleeps under the job's labels, and says that the job controls it."""
    member = job.live_pods()[0]
    container = {"name": "agent", "image": member["spec"]["containers"][0]["image"], "command": ["sleep", "600"]}
    container["securityContext"] = member["spec"]["containers"][0]["securityContext"]
    metadata = {"name": name, "labels": member["metadata"]["labels"] | labels, "ownerReferences": member["metadata"]["ownerReferences"]}
    spec = {"containers": [container], "securityContext": member["spec"]["securityContext"], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_a_pod_that_pretends_to_be_a_member_gets_no_place(team: Team) -> None:
    job = in_training(team, "pretended")
    members = {pod["metadata"]["uid"] for pod in job.live_pods()}
    for number, serial in enumerate(("1", "77", "99999999999")):
        answer = team.kubectl.apply(a_pretender(job, f"pretender-{number}", **{LABEL_SERIAL: serial}))
        assert answer.returncode == 0, answer.stderr
    status = job.wait_complete()
    assert set(status["formation"]["uids"]) == members
    assert status["restarts"].get("crashes", 0) == status["restarts"].get("disruptions", 0) == 0
