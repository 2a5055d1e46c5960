"""The whole process over real sockets: kopf, informer, lease, channel and webhook, before an API server that speaks HTTP."""

import asyncio
import base64
import json
import os
import signal
import ssl
import time
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import yaml
from tests.coordinator.test_channel import until
from tests.coordinator.test_sessions import hello
from tests.edge.test_webhook import admission_review
from tests.kube.api_server import TOKEN, ApiServer, drop, refusing
from tests.kube.builders import UID, job_object, merged
from tests.kube.test_tokens import published, token

from finetune_contract.messages import MemberPhase
from finetune_contract.values import render_message
from finetune_operator.edge.app import Operator, run_operator
from finetune_operator.kube.informer import Informer
from finetune_operator.settings import Settings

JOB = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support-bot"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ops/leases/finetune-operator"
SLICE = "/apis/discovery.k8s.io/v1/namespaces/ops/endpointslices/finetune-channel"
HOOK = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/finetune-operator"
PODS = "/api/v1/namespaces/team-a/pods"


class Replica:
    def __init__(self, api: ApiServer, folder, settings: Settings) -> None:
        self.api, self.settings, self.stopping = api, settings, asyncio.Event()
        folder.mkdir()
        self.operator = Operator(settings, api.credentials, folder)
        self.task = asyncio.create_task(self.operator.run(self.stopping))

    async def ask(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self.settings.metrics_port}{path}") as answer:
            return answer.status, await answer.text()

    async def stop(self) -> None:
        self.stopping.set()
        await self.task


@pytest.fixture
def start(api, tmp_path, unused_tcp_port_factory):
    """Starts replicas by number; those that still run at the end are stopped."""
    api.put(HOOK, {"webhooks": [{"name": "validate.finetune.dev", "clientConfig": {}}]})

    @asynccontextmanager
    async def starting(number: int = 1, **settings: Any):
        replica = Replica(
            api,
            tmp_path / f"op-{number}",
            Settings(
                namespace="ops",
                pod_name=f"op-{number}",
                pod_ip=f"10.0.0.{number}",
                trainer_image="trainer:1",
                channel_port=unused_tcp_port_factory(),
                webhook_port=unused_tcp_port_factory(),
                metrics_port=unused_tcp_port_factory(),
                reconnect_seconds=0.0,
                **settings,
            ),
        )
        try:
            yield replica
        finally:
            if not replica.task.done():
                await replica.stop()

    return starting


def apply_job(api: ApiServer, **changes: Any) -> dict:
    return api.put(JOB, job_object(status=None, **merged({"spec": {"resources": {"nodes": {"min": 2, "max": 2}}}}, changes)))


def status(api: ApiServer) -> dict[str, Any]:
    return api.objects[JOB].get("status") or {}


def members(api: ApiServer) -> dict[str, str]:
    """Pods of the job by name, and the uid that its status has noted for each."""
    noted = {entry.get("uid") for entry in status(api).get("members", [])}
    return {path: uid for path in api.paths("/pods/") if (uid := api.objects[path]["metadata"]["uid"]) in noted}


def run_pod(api: ApiServer, path: str) -> None:
    """What scheduler and kubelet say of a pod that has started."""
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": api.objects[path]["metadata"]["creationTimestamp"]}
    running = {"phase": "Running", "podIPs": [{"ip": "127.0.0.1"}], "conditions": [placed]}
    api.put(path, merged(api.objects[path], {"spec": {"nodeName": "node1"}, "status": running}))


async def connect(replica: Replica, http: aiohttp.ClientSession, path: str) -> aiohttp.ClientWebSocketResponse:
    """The agent of that pod, with a token that the API server signed, and the bundle that its ConfigMap holds."""
    metadata, now = replica.api.objects[path]["metadata"], time.time()
    pod = {"pod": {"name": metadata["name"], "uid": metadata["uid"]}}
    bearer = token(exp=now + 60, nbf=now - 60, **{"kubernetes.io": pod})
    replica.api.documents["/openid/v1/jwks"] = published()
    channel = next(replica.api.objects[one] for one in replica.api.paths("/configmaps/") if one.endswith("-channel"))
    context = ssl.create_default_context(cadata=channel["data"]["ca.crt"])
    socket = await http.ws_connect(
        f"https://127.0.0.1:{replica.settings.channel_port}/channel",
        ssl=context,
        server_hostname="finetune-channel.ops.svc",
        headers={"Authorization": f"Bearer {bearer}"},
    )
    await socket.send_str(render_message(hello(metadata["uid"], job_uid=UID, phase=MemberPhase.PREPARING, formation=0, term=0)))
    return socket


async def test_a_job_that_somebody_applies_becomes_members_that_may_speak(api, start) -> None:
    async with start() as replica, aiohttp.ClientSession() as http:
        await until(lambda: api.watches)
        apply_job(api)
        await until(lambda: len(members(api)) == 2)
        owners = {owner["uid"] for path in members(api) for owner in api.objects[path]["metadata"]["ownerReferences"]}
        assert (owners, status(api)["pinned"]["image"]) == ({UID}, "trainer:1")
        assert api.objects[SLICE]["endpoints"][0]["addresses"] == ["10.0.0.1"]
        for path in members(api):
            run_pod(api, path)
        sockets = [await connect(replica, http, path) for path in members(api)]
        await until(lambda: len(replica.operator._coordinator.observe(UID)) == 2)
        await until(lambda: status(api).get("phase") == "Preparing")
        assert "finetune_operator_channel_sessions 2.0" in (await replica.ask("/metrics"))[1]
        assert all(not socket.closed for socket in sockets)
    assert {verb for verb, path in api.log if path.startswith(JOB)} <= {"GET", "PATCH"}


async def test_a_member_that_is_deleted_is_cut_off_and_replaced(api, start) -> None:
    apply_job(api)
    async with start() as replica, aiohttp.ClientSession() as http:
        await until(lambda: len(members(api)) == 2)
        first, second = members(api)
        run_pod(api, first)
        socket = await connect(replica, http, first)
        await until(lambda: replica.operator._coordinator.observe(UID))
        api.remove(first)
        async with asyncio.timeout(60):
            while not (await socket.receive()).type.name.startswith("CLOS"):
                pass
        await until(lambda: len(members(api)) == 2)
        assert first not in members(api)
        assert second in members(api)


async def test_a_job_that_is_deleted_is_forgotten(api, start) -> None:
    apply_job(api)
    async with start() as replica:
        await until(lambda: len(members(api)) == 2)
        api.remove(JOB)
        assert len([path for path in api.collect_garbage() if path.startswith(PODS)]) == 2
        await until(lambda: not replica.operator._jobs.keys())
        assert replica.task.done() is False


async def test_a_replica_says_what_it_waits_for_until_it_is_ready(api, start) -> None:
    api.script("GET", "/finetunejobs", refusing(404, "NotFound", "the definition is missing"), always=True)
    async with start() as replica:
        await until(lambda: ("LIST", "/apis/finetune.dev/v1alpha1/finetunejobs") in api.log)
        assert await replica.ask("/readyz") == (503, "waiting for jobs\n")
        assert (await replica.ask("/healthz"))[0] == 200
        assert LEASE not in api.objects, "who knows no jobs does not lead"
        api.unscript()
        api.script("GET", "/api/v1/pods", drop, always=True)
        await until(lambda: replica.operator._is_started)
        assert await replica.ask("/readyz") == (503, "waiting for pods\n")
        api.unscript()
        await until(lambda: replica.operator._missing() == ())
        assert await replica.ask("/readyz") == (200, "ok\n")


async def test_the_api_server_trusts_the_webhook_by_the_bundle_that_was_published(api, start) -> None:
    async with start() as replica:
        await until(lambda: api.objects[HOOK]["webhooks"][0]["clientConfig"] and replica.operator._webhook.is_listening)
        bundle = base64.b64decode(api.objects[HOOK]["webhooks"][0]["clientConfig"]["caBundle"]).decode()
        url, context = f"https://127.0.0.1:{replica.settings.webhook_port}/validate-finetunejob", ssl.create_default_context(cadata=bundle)
        bad = admission_review(object=job_object(spec={"resources": {"nodes": {"min": 3, "max": 1}}}))
        async with aiohttp.ClientSession() as http:
            for body, is_allowed in ((admission_review(), True), (bad, False)):
                async with http.post(url, json=body, ssl=context, server_hostname="finetune-webhook.ops.svc") as answer:
                    assert (await answer.json())["response"]["allowed"] is is_allowed
        page = (await replica.ask("/metrics"))[1]
        assert 'finetune_operator_webhook_reviews_total{result="refused"} 1.0' in page
        assert "finetune_operator_leader 1.0" in page


async def test_the_next_replica_leads_at_once_when_the_first_is_stopped_and_goes_on_with_the_same_members(api, start) -> None:
    apply_job(api)
    async with start(1) as first:
        await until(lambda: len(members(api)) == 2)
        before, term = members(api), api.objects[LEASE]["spec"]["leaseTransitions"]
        async with start(2) as second:
            await until(lambda: second.operator._missing() == ())
            assert "finetune_operator_leader 0.0" in (await second.ask("/metrics"))[1]
            await first.stop()
            assert api.objects[LEASE]["spec"]["holderIdentity"] == ""
            assert api.objects[SLICE]["endpoints"] == []
            await until(lambda: api.objects[SLICE]["endpoints"])
            assert api.objects[SLICE]["endpoints"][0]["addresses"] == ["10.0.0.2"]
            lease = api.objects[LEASE]["spec"]
            assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("op-2", term + 1)
            gone = next(iter(before))
            api.remove(gone)
            await until(lambda: len(members(api)) == 2 and gone not in members(api))
            assert len(set(before) & set(members(api))) == 1


async def test_only_named_namespaces_are_looked_at(api, start) -> None:
    other = JOB.replace("team-a", "team-b")
    api.put(other, job_object(metadata={"namespace": "team-b", "uid": "b"}, status=None))
    apply_job(api)
    async with start(watch_namespaces=("team-a",)) as replica:
        await until(lambda: len(members(api)) == 2)
        assert replica.operator._jobs.keys() == (("team-a", "support-bot"),)
    assert [path for verb, path in api.log if "team-b" in path or (verb in {"LIST", "WATCH"} and "/namespaces/" not in path)] == []


async def test_an_error_that_no_part_expects_ends_the_process_after_the_lease_is_given_back(api, start, monkeypatch) -> None:
    fail = asyncio.Event()

    async def run(self: Informer) -> None:
        self.synced.set()
        await fail.wait()
        raise LookupError("unexpected")

    monkeypatch.setattr(Informer, "run", run)
    async with start() as replica:
        await until(lambda: SLICE in api.objects)
        fail.set()
        with pytest.raises(ExceptionGroup) as ended:
            await replica.task
    assert ended.group_contains(LookupError)
    assert api.objects[LEASE]["spec"]["holderIdentity"] == ""


async def test_a_signal_ends_the_process_of_a_kubeconfig_in_order(api, tmp_path, unused_tcp_port_factory) -> None:
    kubeconfig = tmp_path / "config"
    context = {"name": "here", "context": {"cluster": "c", "user": "u"}}
    clusters, users = [{"name": "c", "cluster": {"server": api.credentials.server}}], [{"name": "u", "user": {"token": TOKEN}}]
    kubeconfig.write_text(yaml.safe_dump({"current-context": "here", "contexts": [context], "clusters": clusters, "users": users}))
    api.tokens = {TOKEN}
    ports = {f"{name}_port": unused_tcp_port_factory() for name in ("channel", "webhook", "metrics")}
    settings = Settings(namespace="ops", pod_name="op", pod_ip="10.0.0.1", trainer_image="t", kubeconfig=kubeconfig, **ports)
    task = asyncio.create_task(run_operator(settings))
    try:
        await until(lambda: SLICE in api.objects)
        os.kill(os.getpid(), signal.SIGTERM)
        await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
    assert api.objects[LEASE]["spec"]["holderIdentity"] == ""
    assert json.dumps(api.objects[SLICE]["endpoints"]) == "[]"
