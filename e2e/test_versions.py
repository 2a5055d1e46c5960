"""A definition newer than the operator: jobs that run go on and are repaired, a job that cannot be read says so and costs nothing."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.faults import in_training
from e2e.fixtures import Product
from e2e.product import Job, JsonObject, Kubectl, Team, wait_until

CRD = Path(__file__).resolve().parents[1] / "crds" / "finetunejobs.yaml"
QUIET_SECONDS = 60.0


def newer_definition() -> JsonObject:
    """One more field with a default, and one more word of a field that was there."""
    definition: JsonObject = yaml.safe_load(CRD.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    training = schema["properties"]["spec"]["properties"]["training"]
    training["properties"]["laterKnob"] = {"type": "integer", "default": 1}
    training["default"] = {**training.get("default", {}), "laterKnob": 1}
    training["properties"]["precision"]["enum"].append("fp8")
    return definition


@pytest.fixture
def newer(kubectl: Kubectl) -> Iterator[None]:
    """The newer definition stands while the test runs; then the one of this version, as after a rollback."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(newer_definition()))
    yield
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=CRD.read_text())


def loses_a_member_and_goes_on(job: Job) -> None:
    """Exactly one new pod; the other one stays."""
    before = {pod["metadata"]["name"] for pod in job.live_pods()}
    lost = sorted(before)[-1]
    job.kubectl.run("delete", "pod", lost, "--grace-period=0", "--force", "--wait=false")

    def names() -> set[str]:
        return {pod["metadata"]["name"] for pod in job.live_pods()}

    wait_until("a replacement", lambda: len(names() - {lost}) == len(before), deadline_seconds=60)
    assert len(names() & before) == len(before) - 1, "the other members were not touched"


@pytest.mark.slow
def test_a_running_job_lives_through_a_newer_definition_a_restart_and_the_rollback(
    team: Team, product: Product, newer: None, kubectl: Kubectl
) -> None:
    job = in_training(team, "skewed")
    assert job.object["spec"]["training"]["laterKnob"] == 1
    loses_a_member_and_goes_on(job)
    product.kill_operator()
    loses_a_member_and_goes_on(job)
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=CRD.read_text())
    loses_a_member_and_goes_on(job)
    status = job.wait_complete(deadline_seconds=600)
    assert status["restarts"].get("crashes", 0) == 0


@pytest.mark.slow
def test_a_job_in_words_of_a_newer_definition_says_so_and_is_written_no_more(team: Team, product: Product, newer: None) -> None:
    other = in_training(team, "beside")
    refused = team.kubectl.apply(team.manifest("refused", training={"precision": "fp8"}))
    assert "spec.training.precision: got 'fp8', wanted one of" in refused.stderr
    with product.replicas(0):  # as after a rollback: nobody of this version has judged it
        job = team.submit("later", training={"precision": "fp8"})
    wait_until("Unreadable", lambda: (job.condition("Stalled") or {}).get("reason") == "Unreadable", deadline_seconds=60)
    told = job.condition("Stalled")
    assert told is not None
    assert told["message"].startswith("spec.training.precision")
    version = job.object["metadata"]["resourceVersion"]
    time.sleep(QUIET_SECONDS)
    assert job.object["metadata"]["resourceVersion"] == version
    assert job.pods() == []
    other.wait_complete(deadline_seconds=600)
