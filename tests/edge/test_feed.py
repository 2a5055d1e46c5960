"""The feed over real HTTP: what anybody may write on a job hides nothing and is never answered with a write."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from tests.coordinator.test_channel import until
from tests.kube.builders import job_object

from finetune_operator.edge.feed import JobFeed
from finetune_operator.kube.credentials import Credentials

VERSION_PATH = "/apis/finetune.dev/v1alpha1"
VERBS = ["get", "list", "watch"]
GROUPS = [
    {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}
    for name, version in (("finetune.dev", "v1alpha1"), ("apiextensions.k8s.io", "v1"))
]
KINDS = {
    VERSION_PATH: {"name": "finetunejobs", "singularName": "finetunejob", "namespaced": True, "kind": "FineTuneJob"},
    "/api/v1": {"name": "namespaces", "singularName": "namespace", "namespaced": False, "kind": "Namespace"},
    "/apis/apiextensions.k8s.io/v1": {
        "name": "customresourcedefinitions",
        "singularName": "customresourcedefinition",
        "namespaced": False,
        "kind": "CustomResourceDefinition",
    },
}


class ApiServer:
    """Serves one list and one watch of jobs; `log` holds each method and path."""

    def __init__(self, *jobs: dict) -> None:
        self.jobs = jobs
        self.log: list[tuple[str, str]] = []
        self.coming: asyncio.Queue[dict] = asyncio.Queue()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.log.append((request.method, request.path))
        if request.path in KINDS:
            return web.json_response({"resources": [KINDS[request.path] | {"verbs": VERBS}]})
        if not request.path.startswith(VERSION_PATH):
            return web.json_response({"versions": ["v1"], "groups": GROUPS})
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "100"}, "items": list(self.jobs)})
        stream = web.StreamResponse()
        await stream.prepare(request)
        while True:
            await stream.write(json.dumps(await self.coming.get()).encode() + b"\n")


@asynccontextmanager
async def feeding(api: ApiServer):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    seen: list[tuple[str | None, str]] = []
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    feed = JobFeed(
        Credentials(server=server, ssl_context=None, token="t"),
        namespaces=("team-a",),
        on_event=lambda kind, item: seen.append((kind, item["metadata"]["name"])),
    )
    feed.start()
    try:
        yield seen
    finally:
        await feed.stop()
        await runner.cleanup()


@pytest.mark.parametrize(
    "annotations",
    [
        {"kopf.zalando.org/last-handled-configuration": "not json"},
        {"kopf.zalando.org/last-handled-configuration": "[]"},
        {"kopf.zalando.org/touch-dummy": "x", "kopf.zalando.org/on_job": "not json"},
    ],
)
async def test_no_annotation_hides_a_job(annotations: dict[str, str]) -> None:
    marked = job_object(metadata={"name": "marked", "uid": "u1", "annotations": annotations})
    api = ApiServer(marked, job_object(metadata={"name": "plain", "uid": "u2"}))
    async with feeding(api) as seen:
        await until(lambda: {"marked", "plain"} <= {name for _, name in seen})
        await api.coming.put({"type": "MODIFIED", "object": marked | {"metadata": marked["metadata"] | {"resourceVersion": "101"}}})
        await until(lambda: ("MODIFIED", "marked") in seen)
    assert {method for method, _ in api.log} == {"GET"}
