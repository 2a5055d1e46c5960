"""The feed over real HTTP: what anybody may write on a job hides nothing and is never answered with a write."""

from contextlib import asynccontextmanager

import pytest
from tests.coordinator.test_channel import until
from tests.kube.api_server import ApiServer
from tests.kube.builders import job_object

from finetune_operator.edge.feed import JobFeed

JOBS = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"


@asynccontextmanager
async def feeding(api: ApiServer):
    seen: list[tuple[str | None, str]] = []
    feed = JobFeed(
        api.credentials,
        namespaces=("team-a",),
        on_event=lambda kind, item: seen.append((kind, item["metadata"]["name"])),
    )
    feed.start()
    try:
        yield seen
    finally:
        await feed.stop()


@pytest.mark.parametrize(
    "annotations",
    [
        {"kopf.zalando.org/last-handled-configuration": "not json"},
        {"kopf.zalando.org/last-handled-configuration": "[]"},
        {"kopf.zalando.org/touch-dummy": "x", "kopf.zalando.org/on_job": "not json"},
    ],
)
async def test_no_annotation_hides_a_job(api: ApiServer, annotations: dict[str, str]) -> None:
    marked = api.put(f"{JOBS}/marked", job_object(metadata={"name": "marked", "uid": "u1", "annotations": annotations}))
    api.put(f"{JOBS}/plain", job_object(metadata={"name": "plain", "uid": "u2"}))
    async with feeding(api) as seen:
        await until(lambda: {"marked", "plain"} <= {name for _, name in seen} and api.watches)
        api.put(f"{JOBS}/marked", marked)
        await until(lambda: ("MODIFIED", "marked") in seen)
    assert {verb for verb, _ in api.log} == {"GET", "LIST", "WATCH"}
