"""Lists of any size fit into the operator: one page is held at a time, and nothing of an object is kept but what is parsed from it."""

import asyncio
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.builders.machine import HANG_SECONDS
from tests.kube.api_server import ApiServer
from tests.kube.builders import Strangers, job_object
from tests.kube.large_lists import MEGABYTE, LargeList
from tests.kube.test_lists import a_job, a_pod, fill_jobs, names

from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.client import ApiClient
from finetune_operator.kube.informer import Informer, Listeners, Source
from finetune_operator.kube.pod_view import parse_pod_entry

MOST_BYTES, MOST_BYTES_KEPT = 64 * 2**20, 8 * 2**20


def an_unreadable_job(number: int) -> dict[str, Any]:
    return job_object(metadata={"name": f"job-{number}", "uid": f"uid-{number}"}, spec={"adapter": {"rank": "many"}})


async def fill_pods(client: ApiClient) -> tuple[Any, int]:
    cache, listeners = ObjectCache(), Listeners(on_change=lambda entry: None, on_gone=lambda entry: None, on_gap=lambda: None)
    source = Source(prefix="/api/v1", resource="pods", namespace=None, label_selector="x")
    informer = Informer(
        client, source, cache, parse=parse_pod_entry, listeners=listeners, strangers=Strangers(), random_source=random.Random(1)
    )
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(HANG_SECONDS):
        await informer.synced.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return cache, len(cache)


@pytest.mark.parametrize(
    ("make", "fill"), [(a_pod, fill_pods), (a_job, fill_jobs), (an_unreadable_job, fill_jobs)], ids=["pods", "jobs", "unreadable jobs"]
)
async def test_three_hundred_objects_of_a_megabyte_are_read_in_little_memory(
    api: ApiServer, make: Callable[[int], dict[str, Any]], fill: Callable[[ApiClient], Awaitable[tuple[Any, int]]]
) -> None:
    api.script("GET", "limit=", LargeList(make, 300, num_bytes=MEGABYTE).answer, always=True)
    tracemalloc.start()
    try:
        _kept, num_kept = await fill(api.client)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_kept == 300
    assert peak < MOST_BYTES
    assert now < MOST_BYTES_KEPT


async def test_lists_at_the_same_time_hold_one_page_at_a_time(api) -> None:
    api.script("GET", "limit=", LargeList(a_pod, 12, num_bytes=MEGABYTE).answer, always=True)
    tracemalloc.start()
    try:
        found = await asyncio.gather(*(names(api) for _ in range(20)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(listed) for listed, _ in found] == [12] * 20
    assert peak < MOST_BYTES
