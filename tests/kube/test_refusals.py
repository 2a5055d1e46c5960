"""Which answers to the creation of a pod end a job, and which it waits for."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.kube.builders import job
from tests.stories.world import World

from finetune_operator.decide.facts.policy import UNDECORATED
from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.members import ClusterMembers
from finetune_operator.reconcile.ports import PodInvalid, Refused

INVALID = 'Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'
BAD = 'Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression'
WEBHOOK = 'admission webhook "validate.kyverno.svc-fail" denied the request: image is not allowed'
POLICY = "ValidatingAdmissionPolicy 'images' with binding 'all' denied request: failed expression"


@dataclass
class Answering:
    """An API client that answers every creation with one error."""

    error: ApiError
    asked: list[str] = field(default_factory=list)

    async def request(self, method: str, path: str, **_: Any) -> Any:
        self.asked.append(f"{method} {path}")
        raise self.error


class NoConfigMaps:
    async def ensure(self, _job: Any) -> None:
        return None


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
async def test_only_a_pod_that_can_never_be_is_invalid(status: int, reason: str, message: str, kind: type) -> None:
    client = Answering(ApiError(status, reason, message))
    members = ClusterMembers(client, ObjectCache(), NoConfigMaps())  # type: ignore[arg-type]
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
