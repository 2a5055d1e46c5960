"""The feed of jobs fits into the operator, however large jobs are. kopf is the real one, and the API server speaks HTTP."""

import asyncio
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.builders.machine import HANG_SECONDS
from tests.kube.builders import job_object
from tests.kube.paged_api import MEGABYTE, PagedApi

from finetune_operator.api.job import GROUP, KIND, PLURAL, VERSION
from finetune_operator.edge.feed import JobFeed
from finetune_operator.kube.certificates import make_serving, rotate

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


async def test_two_hundred_jobs_of_a_megabyte_are_heard_of_in_little_memory(tmp_path: Path) -> None:
    now, seen, all_seen = datetime.now(UTC), set(), asyncio.Event()

    def hear(kind: str | None, item: dict[str, Any]) -> None:
        seen.add(item["metadata"]["uid"])
        if len(seen) == NUM_JOBS:
            all_seen.set()

    serving = make_serving(rotate(None, now).current, ("localhost",), now)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text(serving.certificate)
    key.write_text(serving.key)
    async with PagedApi(
        lambda number: job_object(metadata={"name": f"j{number}", "uid": f"u{number}"}), NUM_JOBS, num_bytes=MEGABYTE
    ) as api:
        api.documents = discovery()
        feed = JobFeed(api.credentials, namespaces=(), on_event=hear, validate=lambda new, old: (None, ()))
        tracemalloc.start()
        try:
            feed.start(webhook_port=0, certificate=certificate, key=key)
            async with asyncio.timeout(HANG_SECONDS):
                await all_seen.wait()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            await feed.stop()
    assert peak < MOST_BYTES
