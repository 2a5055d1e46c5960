"""Lists are read page by page, each of one moment, and begun anew when they expire."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from tests.kube.api_server import ApiServer, refusing
from tests.kube.builders import Strangers, job_object, pod_object
from tests.kube.large_lists import MEGABYTE, LargeList
from tests.kube.refusals import Refusal

from finetune_operator.kube.client import ApiClient, ApiError
from finetune_operator.kube.jobs import ClusterJobs

PATH = "/api/v1/pods"


def a_pod(number: int) -> dict[str, Any]:
    return pod_object(metadata={"name": f"pod-{number}", "uid": f"uid-{number}"}, status={"phase": "Pending", "containerStatuses": []})


def a_job(number: int) -> dict[str, Any]:
    return job_object(metadata={"name": f"job-{number}", "uid": f"uid-{number}"})


IN_TEAM = {a_pod: "/api/v1/namespaces/team-a/pods", a_job: "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"}


async def fill_jobs(client: ApiClient) -> tuple[Any, int]:
    told: dict[str, Any] = {"on_change": lambda key: None, "on_written": lambda job, status: None}
    jobs = ClusterJobs(client, None, namespaces=(), strangers=Strangers(), **told)  # type: ignore[arg-type]
    await jobs.fill()
    return jobs, len(jobs.keys())


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
