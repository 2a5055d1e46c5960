"""The feed of jobs fits into the operator, however large jobs are. kopf is the real one, and the API server speaks HTTP."""

import asyncio
import tracemalloc
from typing import Any

from tests.builders.machine import HANG_SECONDS
from tests.kube.builders import job_object
from tests.kube.large_lists import MEGABYTE, LargeList

from finetune_operator.edge.feed import JobFeed

NUM_JOBS, MOST_BYTES = 200, 96 * 2**20


async def test_two_hundred_jobs_of_a_megabyte_are_heard_of_in_little_memory(api) -> None:
    seen: set[str] = set()
    all_seen = asyncio.Event()

    def hear(kind: str | None, item: dict[str, Any]) -> None:
        seen.add(item["metadata"]["uid"])
        if len(seen) == NUM_JOBS:
            all_seen.set()

    jobs = LargeList(lambda number: job_object(metadata={"name": f"j{number}", "uid": f"u{number}"}), NUM_JOBS, num_bytes=MEGABYTE)
    api.script("GET", "limit=", jobs.answer, always=True)
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
