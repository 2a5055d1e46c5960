"""The feed of jobs fits into the operator, however large jobs are. kopf is the real one, and the API server speaks HTTP."""

import asyncio
import tracemalloc
from typing import Any

from tests.builders.machine import HANG_SECONDS
from tests.kube.builders import job_object
from tests.kube.paged_api import MEGABYTE, PagedApi

from finetune_operator.api.job import GROUP, KIND, PLURAL, VERSION
from finetune_operator.edge.feed import JobFeed

NUM_JOBS, MOST_BYTES = 200, 96 * 2**20
VERBS = ["get", "list", "watch", "patch"]


def discovery() -> dict[str, dict[str, Any]]:
    """What kopf asks for before it lists."""
    version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
    core = [("namespaces", "Namespace", False), ("events", "Event", True)]
    return {
        "/api": {"versions": ["v1"]},
        "/apis": {"groups": [{"name": GROUP, "versions": [version], "preferredVersion": version}]},
        "/api/v1": {
            "resources": [
                {"name": name, "singularName": "", "kind": kind, "namespaced": spaced, "verbs": VERBS} for name, kind, spaced in core
            ]
        },
        f"/apis/{GROUP}/{VERSION}": {"resources": [{"name": PLURAL, "singularName": "", "kind": KIND, "namespaced": True, "verbs": VERBS}]},
    }


async def test_two_hundred_jobs_of_a_megabyte_are_heard_of_in_little_memory() -> None:
    seen: set[str] = set()
    all_seen = asyncio.Event()

    def hear(kind: str | None, item: dict[str, Any]) -> None:
        seen.add(item["metadata"]["uid"])
        if len(seen) == NUM_JOBS:
            all_seen.set()

    async with PagedApi(
        lambda number: job_object(metadata={"name": f"j{number}", "uid": f"u{number}"}), NUM_JOBS, num_bytes=MEGABYTE
    ) as api:
        api.documents = discovery()
        feed = JobFeed(api.credentials, namespaces=(), on_event=hear)
        tracemalloc.start()
        try:
            feed.start()
            async with asyncio.timeout(HANG_SECONDS):
                await all_seen.wait()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            await feed.stop()
    assert peak < MOST_BYTES
