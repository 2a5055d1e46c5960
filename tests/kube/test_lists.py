"""Lists of any size fit into the operator: they are read page by page, and nothing of an object is kept but what is parsed from it."""

import asyncio
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.builders.machine import HANG_SECONDS
from tests.kube.builders import job_object, pod_object
from tests.kube.fake_api import Strangers
from tests.kube.paged_api import MEGABYTE, PagedApi

from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.client import ApiClient, ApiError
from finetune_operator.kube.informer import Informer, Listeners, Source
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.kube.pod_view import parse_pod_entry

MOST_BYTES, MOST_BYTES_KEPT = 64 * 2**20, 8 * 2**20
PATH = "/api/v1/pods"


def a_pod(number: int) -> dict[str, Any]:
    return pod_object(metadata={"name": f"pod-{number}", "uid": f"uid-{number}"}, status={"phase": "Pending", "containerStatuses": []})


def a_job(number: int) -> dict[str, Any]:
    return job_object(metadata={"name": f"job-{number}", "uid": f"uid-{number}"})


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


async def fill_jobs(client: ApiClient) -> tuple[Any, int]:
    told: dict[str, Any] = {"on_change": lambda key: None, "on_written": lambda job, status: None}
    jobs = ClusterJobs(client, None, namespaces=(), strangers=Strangers(), **told)  # type: ignore[arg-type]
    await jobs.fill()
    return jobs, len(jobs.keys())


@pytest.mark.parametrize(
    ("make", "fill"), [(a_pod, fill_pods), (a_job, fill_jobs), (an_unreadable_job, fill_jobs)], ids=["pods", "jobs", "unreadable jobs"]
)
async def test_three_hundred_objects_of_a_megabyte_are_read_in_little_memory(
    make: Callable[[int], dict[str, Any]], fill: Callable[[ApiClient], Awaitable[tuple[Any, int]]]
) -> None:
    async with PagedApi(make, 300, num_bytes=MEGABYTE) as api:
        tracemalloc.start()
        try:
            _kept, num_kept = await fill(api.client)
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert num_kept == 300
    assert peak < MOST_BYTES
    assert now < MOST_BYTES_KEPT


async def names(api: PagedApi) -> tuple[list[str], str]:
    return await api.client.list_all(PATH, lambda item: str(item["metadata"]["name"]))


async def test_small_objects_are_read_in_few_pages() -> None:
    async with PagedApi(a_pod, 250) as api:
        found, version = await names(api)
        assert found == [f"pod-{number}" for number in range(250)]
        assert version == "1250"
        assert len(api.pages) == 3


async def test_one_object_is_read_however_large_it_is() -> None:
    async with PagedApi(a_pod, 2, num_bytes=12 * MEGABYTE) as api:
        assert (await names(api))[0] == ["pod-0", "pod-1"]


async def test_a_list_that_expires_half_way_is_begun_anew() -> None:
    async with PagedApi(a_pod, 250) as api:
        api.num_expiring = 1
        found, version = await names(api)
        assert found == [f"pod-{number}" for number in range(249)], "what vanished meanwhile is not in it, and nothing twice"
        assert version == "1249"
        assert [begin for begin, _ in api.pages] == [0, 100, 0, 100, 200]


async def test_jobs_are_complete_after_a_list_that_expired_half_way() -> None:
    async with PagedApi(a_job, 250) as api:
        api.num_expiring = 1
        assert (await fill_jobs(api.client))[1] == 249


async def test_a_list_that_always_expires_is_given_up() -> None:
    async with PagedApi(a_pod, 250) as api:
        api.num_expiring = 100
        with pytest.raises(ApiError, match="410"):
            await names(api)


async def test_lists_at_the_same_time_hold_one_page_at_a_time() -> None:
    async with PagedApi(a_pod, 12, num_bytes=MEGABYTE) as api:
        tracemalloc.start()
        try:
            found = await asyncio.gather(*(names(api) for _ in range(20)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert [len(listed) for listed, _ in found] == [12] * 20
    assert peak < MOST_BYTES
