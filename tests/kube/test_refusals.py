"""Which answers to the creation of a pod end a job, and which it waits for."""

import pytest
from tests.kube.api_server import ApiServer, refusing
from tests.kube.builders import job
from tests.stories.world import World

from finetune_operator.api.render_config import render_config
from finetune_operator.decide.facts.policy import UNDECORATED
from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.configmaps import JobConfigMaps
from finetune_operator.kube.members import ClusterMembers
from finetune_operator.reconcile.ports import PodInvalid, Refused

INVALID = 'Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'
BAD = 'Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression'
WEBHOOK = 'admission webhook "validate.kyverno.svc-fail" denied the request: image is not allowed'
POLICY = "ValidatingAdmissionPolicy 'images' with binding 'all' denied request: failed expression"


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind"),
    [
        (422, "Invalid", INVALID, PodInvalid),
        (400, "BadRequest", BAD, PodInvalid),
        (403, "Forbidden", 'pods "x" is forbidden: exceeded quota: pods', Refused),
        (403, "Forbidden", 'violates PodSecurity "restricted:latest"', Refused),
        (404, "NotFound", 'namespaces "team-a" not found', Refused),
        (400, "", WEBHOOK, Refused),
        (422, "Invalid", POLICY, Refused),
    ],
)
async def test_only_a_pod_that_can_never_be_is_invalid(api: ApiServer, status: int, reason: str, message: str, kind: type) -> None:
    api.script("POST", "/pods", refusing(status, reason, message))
    config_maps = JobConfigMaps(api.client, url="wss://channel", ca_bundle=lambda: "ca", render=render_config)
    members = ClusterMembers(api.client, ObjectCache(), config_maps)
    answer = await members.create(job(), 1, UNDECORATED)
    assert isinstance(answer, kind)
    assert answer.message == f"{status} {message}"


async def test_an_invalid_pod_fails_the_job_at_once_in_the_words_of_the_api_server() -> None:
    world = World()
    world.apply()
    world.pods.invalid = f"422 {INVALID}"
    await world.tick(1)
    failed = world.status().condition("Failed")
    assert failed is not None
    assert failed.reason == "InvalidPod"
    assert INVALID in failed.message
    await world.tick(30)
    assert world.pods.num_invalid == 1


async def test_quota_is_waited_for() -> None:
    world = World()
    world.apply()
    world.pods.refusal = "403 exceeded quota: pods"
    await world.tick(5)
    assert world.status().condition("Failed") is None
    world.pods.refusal = None
    await world.tick(60)
    assert world.pods.made
