"""Lists of any size fit into the operator: they are read page by page, and nothing of an object is kept but what is parsed from it."""

import asyncio
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from tests.builders.machine import HANG_SECONDS
from tests.kube.api_server import ApiServer, refusing
from tests.kube.builders import Strangers, job_object, pod_object
from tests.kube.large_lists import MEGABYTE, LargeList
from tests.kube.refusals import Refusal

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


IN_TEAM = {a_pod: "/api/v1/namespaces/team-a/pods", a_job: "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"}


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


def store(api: ApiServer, make: Callable[[int], dict[str, Any]], num_items: int) -> None:
    for number in range(num_items):
        api.put(f"{IN_TEAM[make]}/{number:03}", make(number))


async def names(api: ApiServer) -> tuple[list[str], str]:
    return await api.client.list_all(PATH, lambda item: str(item["metadata"]["name"]))


def pages(api: ApiServer) -> list[tuple[str | None, str]]:
    """Of each page that was asked for: what it goes on from, and its limit."""
    return [(one.query.get("continue"), one.query["limit"]) for one in api.requests]


async def test_small_objects_are_read_in_few_pages(api) -> None:
    store(api, a_pod, 250)
    assert await names(api) == ([f"pod-{number}" for number in range(250)], str(api.version))
    assert pages(api) == [(None, "100"), ("after-1", "100"), ("after-2", "100")]


async def test_one_object_is_read_however_large_it_is(api) -> None:
    api.script("GET", "limit=", LargeList(a_pod, 2, num_bytes=12 * MEGABYTE).answer, always=True)
    assert (await names(api))[0] == ["pod-0", "pod-1"]
    assert [limit for _, limit in pages(api)][-1] == "1"


async def test_a_list_that_expires_half_way_is_begun_anew(api) -> None:
    store(api, a_pod, 250)

    async def expire(request: web.Request) -> web.StreamResponse:
        api.remove(f"{IN_TEAM[a_pod]}/249")
        api.compact()
        raise Refusal(410, "Expired", "the list is too old")

    api.script("GET", "continue=after-2", expire)
    found, version = await names(api)
    assert found == [f"pod-{number}" for number in range(249)], "what vanished meanwhile is not in it, and nothing twice"
    assert version == str(api.version)
    assert [begin for begin, _ in pages(api)] == [None, "after-1", "after-2", None, "after-1", "after-2"]


async def test_jobs_are_complete_after_a_list_that_expired_half_way(api) -> None:
    store(api, a_job, 250)
    api.script("GET", "continue=", refusing(410, "Expired", "the list is too old"))
    assert (await fill_jobs(api.client))[1] == 250


async def test_a_list_that_always_expires_is_given_up(api) -> None:
    store(api, a_pod, 250)
    api.script("GET", "continue=", refusing(410, "Expired", "the list is too old"), always=True)
    with pytest.raises(ApiError, match="410"):
        await names(api)
    assert len(pages(api)) == 6, "three times"


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
