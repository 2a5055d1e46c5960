"""The feed over real HTTP: what anybody may write on a job hides nothing and is never answered with a write."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.coordinator.test_channel import until
from tests.kube.api_server import ApiServer, refusing
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


WAYS = {
    "ended by the server": lambda api: api.watches[0].end(),
    "cut half way through a line": lambda api: api.watches[0].cut(),
    "too old in the stream": lambda api: (api.compact(), api.watches[0].expire()),
    "too old as a status": lambda api: (api.compact(), api.script("GET", "watch", refusing(410, "Expired", "old")), api.watches[0].end()),
    "a busy server": lambda api: (
        api.script("GET", "/finetunejobs", refusing(429, "TooManyRequests", "slow down", retry_after="0")),
        api.watches[0].cut(),
    ),
    "a broken server": lambda api: (api.script("GET", "watch", refusing(503, "ServiceUnavailable", "no")), api.watches[0].end()),
    "rights that are taken away": lambda api: (api.script("GET", "watch", refusing(403, "Forbidden", "no")), api.watches[0].end()),
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_feed_goes_on_whatever_happens_to_a_stream(api: ApiServer, monkeypatch, way) -> None:
    monkeypatch.setattr("finetune_operator.edge.feed.FEED_RESTART_SECONDS", 0.05)
    api.put(f"{JOBS}/first", job_object(metadata={"name": "first", "uid": "u1"}))
    async with feeding(api) as seen:
        await until(lambda: api.watches and seen)
        WAYS[way](api)
        api.put(f"{JOBS}/second", job_object(metadata={"name": "second", "uid": "u2"}))
        await until(lambda: "second" in {name for _, name in seen})
        await until(lambda: api.watches)
        api.put(f"{JOBS}/third", job_object(metadata={"name": "third", "uid": "u3"}))
        await until(lambda: "third" in {name for _, name in seen})
    assert {verb for verb, _ in api.log} == {"GET", "LIST", "WATCH"}


async def test_a_token_that_the_kubelet_renewed_is_read_again(api: ApiServer, tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    api.tokens, api.credentials = {"first"}, replace(api.credentials, token=None, token_file=file)
    async with feeding(api) as seen:
        await until(lambda: api.watches)
        file.write_text("second")
        api.tokens = {"second"}
        api.watches[0].end()
        await until(lambda: api.watches and api.requests[-1].headers["Authorization"] == "Bearer second")
        api.put(f"{JOBS}/one", job_object(metadata={"name": "one", "uid": "u1"}))
        await until(lambda: ("ADDED", "one") in seen)
