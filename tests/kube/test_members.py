"""Pods of a job over HTTP: made once for each serial, and deleted by uid alone."""

import pytest
from tests.kube.api_server import ApiServer, drop, refusing, saying
from tests.kube.builders import UID, job, merged, pod_object

from finetune_operator.api.render_config import render_config
from finetune_operator.decide.facts.observed import PodView
from finetune_operator.decide.facts.policy import UNDECORATED
from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.client import ApiError, Unreachable
from finetune_operator.kube.configmaps import JobConfigMaps
from finetune_operator.kube.members import ClusterMembers
from finetune_operator.reconcile.ports import Created, NameTaken, PodInvalid, Refused

PODS = "/api/v1/namespaces/team-a/pods"
ONE = f"{PODS}/support-bot-0a1b-1"
CONFIG = "/api/v1/namespaces/team-a/configmaps/support-bot-0a1b2c3d"


class Bench:
    def __init__(self, api: ApiServer) -> None:
        self.cache: ObjectCache[PodView] = ObjectCache()
        config_maps = JobConfigMaps(api.client, url="wss://channel", ca_bundle=lambda: "ca", render=render_config)
        self.members = ClusterMembers(api.client, self.cache, config_maps)

    async def create(self):
        return await self.members.create(job(), 1, UNDECORATED)

    @property
    def shown(self) -> dict[str, PodView]:
        return {view.name: view for view in self.members.observe(job())}


async def test_a_member_is_shown_before_the_watch_tells(api) -> None:
    bench = Bench(api)
    answer = await bench.create()
    assert answer == Created(uid=api.objects[ONE]["metadata"]["uid"])
    assert bench.shown["support-bot-0a1b-1"].uid == answer.uid
    assert [(verb, path.split("/")[5]) for verb, path in api.log][-1] == ("POST", "pods")


async def test_a_creation_whose_answer_was_lost_is_found_again_by_its_name(api) -> None:
    bench = Bench(api)
    made = await bench.create()
    assert await Bench(api).create() == made
    assert len(api.paths("/pods/")) == 1


@pytest.mark.parametrize(
    "owner", [None, [{"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "support-bot", "uid": "x", "controller": True}]]
)
async def test_a_name_of_another_is_left_alone(api, owner) -> None:
    api.put(ONE, pod_object(metadata={"name": "support-bot-0a1b-1", "ownerReferences": owner}))
    assert await Bench(api).create() == NameTaken()
    assert ONE in api.objects


async def test_a_pod_that_vanished_between_two_answers_says_nothing_about_the_job(api) -> None:
    api.script("POST", "/pods", refusing(409, "AlreadyExists", "exists"))
    with pytest.raises(Unreachable, match="pod support-bot-0a1b-1 existed and vanished in between"):
        await Bench(api).create()


async def test_a_refusal_to_read_the_pod_of_that_name_is_told(api) -> None:
    api.script("POST", "/pods", refusing(409, "AlreadyExists", "exists"))
    api.script("GET", "/pods/", refusing(403, "Forbidden", "no"))
    assert await Bench(api).create() == Refused(message="403 no")


@pytest.mark.parametrize(("status", "error"), [(500, ApiError), (409, ApiError), (504, ApiError)])
async def test_an_answer_that_says_nothing_about_the_pod_is_raised(api, status, error) -> None:
    api.script("POST", "/pods", refusing(status, "InternalError", "no"))
    with pytest.raises(error):
        await Bench(api).create()


async def test_no_answer_is_raised(api) -> None:
    api.script("POST", "/pods", drop)
    with pytest.raises(Unreachable):
        await Bench(api).create()


async def test_config_maps_come_first_and_their_refusal_is_told_without_a_pod(api) -> None:
    api.put(CONFIG, {"data": {}})
    answer = await Bench(api).create()
    assert isinstance(answer, Refused)
    assert "support-bot-0a1b2c3d exists and does not belong to this job" in answer.message
    assert api.paths("/pods/") == []
    api.remove(CONFIG)
    api.script("POST", "/configmaps", refusing(422, "Invalid", "too long"))
    assert await Bench(api).create() == Refused(message="422 too long"), "no fault of the pod"


async def test_a_pod_that_comes_back_without_owner_is_taken_back(api) -> None:
    robbed = pod_object(metadata={"name": "support-bot-0a1b-1", "ownerReferences": None})
    api.script("POST", "/pods", saying('{"kind": "Pod", "metadata": {"uid": "u-1", "name": "support-bot-0a1b-1"}}'))
    api.put(ONE, merged(robbed, {"metadata": {"uid": "u-1"}}))
    answer = await Bench(api).create()
    assert isinstance(answer, Refused)
    assert not isinstance(answer, PodInvalid)
    assert "mutating webhook" in answer.message
    assert ONE not in api.objects


async def test_a_deletion_has_its_grace_and_is_shown_at_once(api) -> None:
    bench = Bench(api)
    uid = (await bench.create()).uid
    api.put(ONE, merged(api.objects[ONE], {"spec": {"nodeName": "node1"}}))
    await bench.members.delete(job(), uid, "support-bot-0a1b-1", 7)
    assert api.objects[ONE]["metadata"]["deletionGracePeriodSeconds"] == 7
    assert bench.shown["support-bot-0a1b-1"].is_deleting
    await bench.members.delete(job(), uid, "support-bot-0a1b-1", None)
    assert api.objects[ONE]["metadata"]["deletionGracePeriodSeconds"] == 7, "its own grace is longer"
    await bench.members.delete(job(), uid, "support-bot-0a1b-1", 0)
    assert ONE not in api.objects


async def test_a_namesake_and_a_pod_that_is_gone_are_left_as_they_are(api) -> None:
    bench = Bench(api)
    await bench.create()
    await bench.members.delete(job(), "another", "support-bot-0a1b-1", 0)
    assert ONE in api.objects
    await bench.members.delete(job(), "another", "support-bot-0a1b-9", 0)


@pytest.mark.parametrize(("answer", "error"), [(refusing(403, "Forbidden", "no"), ApiError), (drop, Unreachable)])
async def test_a_deletion_that_was_not_done_is_raised(api, answer, error) -> None:
    bench = Bench(api)
    uid = (await bench.create()).uid
    api.script("DELETE", ONE, answer, answer)
    with pytest.raises(error):
        await bench.members.delete(job(), uid, "support-bot-0a1b-1", None)


async def test_members_of_another_job_of_that_name_are_not_shown(api) -> None:
    bench = Bench(api)
    await bench.create()
    assert bench.members.observe(job(metadata={"uid": "next"})) == ()
    assert bench.members.observe(job(metadata={"namespace": "team-b", "uid": UID})) == ()
