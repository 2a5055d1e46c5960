"""Whose pod may speak: the real parser, cache, passes and authenticator against pods that claim a job which never asked for them."""

from datetime import UTC, datetime

import pytest
from tests.builders.policy import GATE, LABEL, TicketPlacement
from tests.kube.api_server import ApiServer
from tests.kube.builders import UID, Strangers, job_object, merged, pod_object

from finetune_operator.api.render_config import render_config
from finetune_operator.coordinator.identity import TokenRefused
from finetune_operator.coordinator.server import Coordinator
from finetune_operator.decide.facts.observed import PodView
from finetune_operator.decide.facts.policy import policy_of
from finetune_operator.edge.authenticate import PodAuthenticator
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.configmaps import JobConfigMaps
from finetune_operator.kube.events import EventRecorder
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.kube.members import ClusterMembers
from finetune_operator.kube.pod_view import parse_pod_entry
from finetune_operator.kube.tokens import PodIdentity
from finetune_operator.reconcile.passes import PassSettings, Reconciler

KEY = ("team-a", "support-bot")
PODS = "/api/v1/namespaces/team-a/pods"
JOB_PATH = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support-bot"
OWNER = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "support-bot", "uid": UID, "controller": True}


class Clock:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, 1, tzinfo=UTC)


class Verifier:
    """Every token is valid and names its pod: namespace/name/uid."""

    async def identify(self, token: str) -> PodIdentity:
        namespace, name, uid = token.split("/")
        return PodIdentity(namespace=namespace, name=name, uid=uid)


class Bench:
    """One operator over one API server; nothing of the operator is replaced but the check of signatures."""

    def __init__(self, api: ApiServer, policy_of=policy_of) -> None:
        self.api, self.client, self.strangers, self.policy_of = api, api.client, Strangers(), policy_of
        self.api.put(JOB_PATH, job_object(spec={"resources": {"nodes": {"min": 2, "max": 2}}}, status=None))
        self.restart()

    def restart(self) -> None:
        self.pods: ObjectCache[PodView] = ObjectCache()
        recorder = EventRecorder(self.client, instance="test", clock=Clock(), monotonic=lambda: 0.0)
        self.jobs = ClusterJobs(
            self.client, recorder, namespaces=(), on_change=lambda key: None, on_written=lambda job, status: None, strangers=self.strangers
        )
        self.jobs.apply(None, self.api.objects[JOB_PATH])
        self.maps = JobConfigMaps(self.client, url="wss://channel", ca_bundle=lambda: "ca", render=render_config)
        self.coordinator = Coordinator(clock=Clock(), authenticate=self.admit, on_change=lambda uid: None)
        self.reconciler = Reconciler(
            members=ClusterMembers(self.client, self.pods, self.maps),
            agents=self.coordinator,
            jobs=self.jobs,
            clock=Clock(),
            settings=PassSettings(trainer_image="trainer:1", reconnect_seconds=0, policy_of=self.policy_of),
        )
        self.authenticator = PodAuthenticator(
            self.client, Verifier(), self.pods, is_member=self.reconciler.is_member, strangers=self.strangers
        )
        for path in self.api.paths("/pods/"):
            self.show(self.api.objects[path])

    async def admit(self, token: str):
        return await self.authenticator(token)

    def show(self, pod: dict) -> None:
        entry = parse_pod_entry(pod)
        if isinstance(entry, Entry):
            self.pods.apply(entry)

    def intrude(self, name: str, *, namespace: str = "team-a", **metadata) -> dict:
        """Somebody makes a pod; the informer shows it."""
        healthy = pod_object(metadata={"name": name, "namespace": namespace, "uid": f"evil-{name}"})
        pod = self.api.put(f"/api/v1/namespaces/{namespace}/pods/{name}", merged(healthy, {"metadata": metadata}))
        self.show(pod)
        return pod

    async def settle(self) -> None:
        for _ in range(20):
            if await self.reconciler.run_pass(KEY) != 0.0:
                return
        raise AssertionError("passes never come to rest")

    @property
    def listed(self) -> dict[int, str | None]:
        return {entry.serial: entry.uid for entry in self.jobs.get(KEY).status.members}

    async def connect(self, pod: dict):
        metadata = pod["metadata"]
        return await self.authenticator(f"{metadata['namespace']}/{metadata['name']}/{metadata['uid']}")


async def test_members_are_those_that_the_operator_made(api) -> None:
    bench = Bench(api)
    await bench.settle()
    made = {path.rpartition("-")[2]: bench.api.objects[path] for path in bench.api.paths("/pods/")}
    assert bench.listed == {1: made["1"]["metadata"]["uid"], 2: made["2"]["metadata"]["uid"]}
    for pod in made.values():
        assert (await bench.connect(pod)).job_uid == UID


async def test_a_pod_that_a_policy_decorates_is_a_member_like_any_other(api) -> None:
    bench = Bench(api, lambda job: TicketPlacement(drawn={job.metadata.name}))
    await bench.settle()
    pods = [bench.api.objects[path] for path in bench.api.paths("/pods/")]
    assert [pod["spec"]["schedulingGates"] for pod in pods] == [[{"name": GATE}]] * 2
    assert {pod["metadata"]["labels"][LABEL] for pod in pods} == {"support-bot"}
    assert bench.listed == {number: pod["metadata"]["uid"] for number, pod in enumerate(pods, start=1)}


async def test_a_member_is_at_home_at_the_addresses_of_its_pod(api) -> None:
    """So that the door of the channel can tell it from a copy of its token."""
    bench = Bench(api)
    await bench.settle()
    path = next(iter(bench.api.paths("/pods/")))
    assert (await bench.connect(bench.api.objects[path])).addresses == frozenset()
    running = bench.api.put(path, merged(bench.api.objects[path], {"status": {"podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]}}))
    bench.show(running)
    assert (await bench.connect(running)).addresses == {"10.0.0.7", "fd00::7"}


@pytest.mark.parametrize(
    "intruder",
    [
        {"namespace": "evil"},
        {"namespace": "evil", "ownerReferences": [OWNER | {"apiVersion": "evil.example/v1"}]},
        {"ownerReferences": [OWNER | {"apiVersion": "evil.example/v1"}]},
        {"ownerReferences": None},
        {"labels": {"finetune.dev/job": None}},
        {},
        {"labels": {"finetune.dev/serial": "1"}},
        {"labels": {"finetune.dev/serial": "2"}},
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["before the members", "after the members"])
async def test_a_pod_that_claims_the_job_gets_no_place_and_no_session(api, intruder, is_first) -> None:
    bench = Bench(api)
    if not is_first:
        await bench.settle()
    pod = bench.intrude("trojan", **intruder)
    await bench.settle()
    assert len(bench.listed) == 2
    assert pod["metadata"]["uid"] not in bench.listed.values()
    with pytest.raises(TokenRefused):
        await bench.connect(pod)
    assert bench.strangers.seen


async def test_a_pod_of_another_namespace_is_left_to_its_owner(api) -> None:
    bench = Bench(api)
    bench.intrude("support-bot-0a1b-1", namespace="evil")
    await bench.settle()
    assert bench.api.paths("/namespaces/evil/pods/")
    assert [method for method, path in bench.api.log if "/evil/" in path and method != "GET"] == []


async def test_a_pod_that_an_operator_made_just_before_it_ended_is_adopted(api) -> None:
    bench = Bench(api)
    await bench.settle()
    before = bench.listed
    stored = bench.api.objects[JOB_PATH]
    members = [{key: value for key, value in entry.items() if key != "uid"} for entry in stored["status"]["members"]]
    bench.api.put(JOB_PATH, merged(stored, {"status": {"members": members}}))
    bench.restart()
    pod = bench.api.objects[f"{PODS}/support-bot-0a1b-1"]
    with pytest.raises(TokenRefused):
        await bench.connect(pod)
    await bench.settle()
    assert bench.listed == before
    assert (await bench.connect(pod)).member_uid == before[1]


@pytest.mark.parametrize("owner", [None, [OWNER | {"uid": "another"}], [OWNER | {"apiVersion": "evil.example/v1"}]])
async def test_a_name_that_somebody_else_holds_is_passed_over(api, owner) -> None:
    bench = Bench(api)
    bench.intrude("support-bot-0a1b-1", ownerReferences=owner)
    await bench.settle()
    assert set(bench.listed) == {2, 3}


async def test_a_pod_that_goes_before_its_uid_is_written_gives_its_name_to_nobody(api) -> None:
    bench = Bench(api)
    await bench.reconciler.run_pass(KEY)
    first = bench.api.objects.pop(f"{PODS}/support-bot-0a1b-1")
    bench.pods.remove(first["metadata"]["uid"])
    await bench.settle()
    assert set(bench.listed) == {2, 3}
    assert f"{PODS}/support-bot-0a1b-1" not in bench.api.objects


async def test_a_member_that_was_given_to_another_job_speaks_for_neither(api) -> None:
    bench = Bench(api)
    await bench.settle()
    stored = bench.api.objects[f"{PODS}/support-bot-0a1b-1"]
    moved = bench.api.put(f"{PODS}/support-bot-0a1b-1", merged(stored, {"metadata": {"ownerReferences": [OWNER | {"uid": "another"}]}}))
    bench.show(moved)
    with pytest.raises(TokenRefused):
        await bench.connect(moved)
    await bench.settle()
    assert set(bench.listed) == {2, 3}


async def test_the_token_of_an_ended_pod_is_refused(api) -> None:
    bench = Bench(api)
    await bench.settle()
    path = f"{PODS}/support-bot-0a1b-1"
    ended = bench.api.put(path, merged(bench.api.objects[path], {"status": {"phase": "Succeeded"}}))
    bench.show(ended)
    with pytest.raises(TokenRefused, match="has ended"):
        await bench.connect(ended)
    assert bench.strangers.seen == ["ended"]


async def test_a_pod_that_a_webhook_robs_of_its_owner_is_taken_back_and_told(api) -> None:
    bench = Bench(api)
    put = bench.api.put
    bench.api.put = lambda path, item: put(path, merged(item, {"metadata": {"ownerReferences": None}}) if "/pods/" in path else item)
    await bench.reconciler.run_pass(KEY)
    await bench.reconciler.run_pass(KEY)
    assert bench.api.paths("/pods/") == []
    assert "mutating webhook" in bench.jobs.get(KEY).status.placement.why
