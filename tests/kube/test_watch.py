"""The informer over real streams: whatever ends, breaks or goes silent, its cache becomes what the API server holds."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from tests.coordinator.test_channel import until
from tests.kube.api_server import ApiServer, drop, refusing
from tests.kube.builders import UID, Strangers, merged, pod_object

from finetune_contract.backoff import Backoff
from finetune_operator.kube import informer as informer_module
from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.client import MERGE_PATCH
from finetune_operator.kube.informer import Informer, Listeners, Source
from finetune_operator.kube.pod_view import parse_pod_entry

PODS = "/api/v1/namespaces/team-a/pods"
ALL = "/api/v1/pods"
SELECTOR = "finetune.dev/job-uid"


class Mirror:
    """An informer of pods and what it told."""

    def __init__(self, api: ApiServer, namespace: str | None) -> None:
        self.api, self.cache, self.strangers = api, ObjectCache(), Strangers()
        self.changed: list[str] = []
        self.gone: list[str] = []
        self.num_gaps = 0
        self.informer = Informer(
            api.client,
            Source(prefix="/api/v1", resource="pods", namespace=namespace, label_selector=SELECTOR),
            self.cache,
            parse=parse_pod_entry,
            listeners=Listeners(
                on_change=lambda entry: self.changed.append(entry.uid),
                on_gone=lambda entry: self.gone.append(entry.uid),
                on_gap=self._miss,
            ),
            strangers=self.strangers,
            random_source=random.Random(1),
        )

    def _miss(self) -> None:
        self.num_gaps += 1

    @property
    def shown(self) -> set[str]:
        return {view.uid for view in self.cache.of_owner("team-a", UID)}

    @property
    def version(self) -> str:
        """From which the newest stream goes on."""
        return next(one.query["resourceVersion"] for one in reversed(self.api.requests) if "watch" in one.query)

    @property
    def num_lists(self) -> int:
        return sum(verb == "LIST" for verb, _ in self.api.log)

    async def watches(self, num_before: int = 0) -> None:
        """Until a stream is open that is not one of the first so many."""
        await until(lambda: self.api.watches and sum(verb == "WATCH" for verb, _ in self.api.log) > num_before)


@pytest.fixture(autouse=True)
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(informer_module, "_BACKOFF", Backoff(first_seconds=0.01, longest_seconds=0.02))


@asynccontextmanager
async def mirroring(api: ApiServer, namespace: str | None = None):
    mirror = Mirror(api, namespace)
    task = asyncio.create_task(mirror.informer.run())
    try:
        await until(lambda: mirror.informer.synced.is_set() or task.done())
        await mirror.watches()
        yield mirror
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def make(api: ApiServer, name: str, namespace: str = "team-a", **metadata) -> dict:
    pod = pod_object(metadata={"name": name, "uid": name, "namespace": namespace, **metadata})
    return api.put(f"/api/v1/namespaces/{namespace}/pods/{name}", pod)


async def test_the_cache_follows_every_change(api) -> None:
    make(api, "old")
    make(api, "stranger", labels=None)
    async with mirroring(api) as mirror:
        assert mirror.shown == {"old"}
        make(api, "new")
        await until(lambda: mirror.shown == {"old", "new"})
        version = api.put(f"{PODS}/new", merged(api.objects[f"{PODS}/new"], {"status": {"phase": "Failed"}}))["metadata"]["resourceVersion"]
        await until(lambda: mirror.cache.get("new").resource_version == version)
        api.remove(f"{PODS}/old")
        await until(lambda: mirror.shown == {"new"})
    assert (mirror.changed, mirror.gone) == (["old", "new", "new"], ["old"])
    assert (mirror.num_lists, mirror.num_gaps) == (1, 1)
    assert mirror.api.requests[0].query["labelSelector"] == SELECTOR


async def test_one_namespace_is_all_that_is_asked_for(api) -> None:
    make(api, "other", namespace="team-b")
    async with mirroring(api, "team-a") as mirror:
        make(api, "mine")
        await until(lambda: mirror.shown == {"mine"})
    assert {path for _, path in api.log} == {PODS}


async def test_a_stream_that_ends_goes_on_where_it_was_and_misses_nothing(api) -> None:
    async with mirroring(api) as mirror:
        make(api, "one")
        api.watches[0].bookmark(api.version)
        api.watches[0].end()
        make(api, "two")
        await until(lambda: mirror.shown == {"one", "two"})
        await mirror.watches(1)
        assert mirror.version == str(api.version - 1)
    assert mirror.num_lists == 1
    assert mirror.changed == ["one", "two"]


async def test_a_bookmark_moves_the_version_and_changes_nothing(api) -> None:
    make(api, "one")
    async with mirroring(api) as mirror:
        for _ in range(3):
            make(api, "stranger", labels=None)
        api.watches[0].bookmark(api.version)
        api.watches[0].end()
        await mirror.watches(1)
        assert mirror.version == str(api.version)
    assert (mirror.changed, mirror.gone) == (["one"], [])


@pytest.mark.parametrize("way", ["in the stream", "as a status"])
async def test_versions_that_are_too_old_lead_to_a_list_and_ghosts_are_forgotten(api, way) -> None:
    make(api, "ghost")
    make(api, "stays")
    async with mirroring(api) as mirror:
        watch = api.watches[0]
        watch.freeze()
        api.remove(f"{PODS}/ghost")
        make(api, "missed")
        api.compact()
        if way == "in the stream":
            watch._is_frozen = False
            watch.expire()
        else:
            watch.end()
        await until(lambda: mirror.shown == {"stays", "missed"})
        assert mirror.gone == ["ghost"]
        make(api, "last")
        await until(lambda: "last" in mirror.shown)
    assert (mirror.num_lists, mirror.num_gaps) == (2, 2)


async def test_a_stream_that_is_cut_half_way_through_a_line_goes_on(api) -> None:
    make(api, "one")
    async with mirroring(api) as mirror:
        api.watches[0].cut()
        await mirror.watches(1)
        make(api, "two")
        await until(lambda: mirror.shown == {"one", "two"})
    assert (mirror.num_lists, mirror.gone) == (1, [])
    assert mirror.num_gaps == 2, "events of other kinds may have been missed as well"


async def test_a_stream_that_is_half_open_is_given_up_and_the_next_one_misses_nothing(api, monkeypatch) -> None:
    monkeypatch.setattr(informer_module, "LATE_STREAM_SECONDS", 1.0)
    monkeypatch.setattr(informer_module, "LEAST_STREAM_SECONDS", 0)
    monkeypatch.setattr(informer_module, "MOST_STREAM_SECONDS", 0)
    async with mirroring(api) as mirror:
        api.watches[0].freeze()
        make(api, "unseen")
        await until(lambda: "unseen" in mirror.shown)
        assert mirror.num_gaps >= 2, "it is told, for other streams may be silent too"
    assert mirror.num_lists == 1


@pytest.mark.parametrize(
    "line",
    [
        b"<html>\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": 3, "object": {}}\n',
        b'{"type": "ADDED", "object": []}\n',
        b"[" * 9000 + b"\n",
    ],
)
async def test_a_line_that_is_no_event_breaks_the_stream_and_nothing_else(api, line) -> None:
    async with mirroring(api) as mirror:
        api.watches[0].say(line)
        await mirror.watches(1)
        make(api, "one")
        await until(lambda: mirror.shown == {"one"})
    assert mirror.num_lists == 1


@pytest.mark.parametrize("item", [{"code": 500, "message": "etcd"}, {"code": "x"}, {}])
async def test_an_error_in_the_stream_leads_to_a_list(api, item) -> None:
    async with mirroring(api) as mirror:
        api.watches[0].tell("ERROR", item)
        await mirror.watches(1)
        make(api, "one")
        await until(lambda: mirror.shown == {"one"})
    assert mirror.num_lists == 2


async def test_empty_lines_and_lines_in_pieces_are_read(api) -> None:
    async with mirroring(api) as mirror:
        api.watches[0].say(b"\n\n")
        pod = make(api, "large", annotations={"filler": "x" * 900_000})
        await until(lambda: mirror.cache.get("large") is not None)
        assert mirror.cache.get("large").resource_version == pod["metadata"]["resourceVersion"]
    assert sum(verb == "WATCH" for verb, _ in api.log) == 1


async def test_a_pod_that_leaves_the_selector_is_no_lost_member_until_it_is_gone(api) -> None:
    make(api, "one")
    async with mirroring(api) as mirror:
        await api.client.request("PATCH", f"{PODS}/one", body={"metadata": {"labels": {SELECTOR: None}}}, content_type=MERGE_PATCH)
        await until(lambda: ("GET", f"{PODS}/one") in api.log)
        make(api, "two")
        await until(lambda: mirror.shown == {"one", "two"})
        assert mirror.gone == []
        api.compact()
        api.watches[0].expire()
        await mirror.watches(1)
        assert mirror.shown == {"one", "two"}, "a list does not show it, and it exists"
        api.remove(f"{PODS}/one")
        api.watches[0].end()
        await until(lambda: mirror.shown == {"two"})
    assert mirror.gone == ["one"]


async def test_a_pod_that_comes_back_into_the_selector_is_watched_again(api) -> None:
    pod = make(api, "one")
    async with mirroring(api) as mirror:
        api.put(f"{PODS}/one", merged(pod, {"metadata": {"labels": None}}))
        await until(lambda: ("GET", f"{PODS}/one") in api.log)
        api.put(f"{PODS}/one", merged(pod, {"status": {"phase": "Failed"}}))
        await until(lambda: mirror.cache.get("one").value.phase == "Failed")
    assert mirror.gone == []


async def test_a_namesake_of_a_pod_that_left_is_not_taken_for_it(api) -> None:
    make(api, "one")
    async with mirroring(api) as mirror:
        api.objects.pop(f"{PODS}/one")
        make(api, "one", uid="namesake", labels=None)
        api.watches[0].tell("DELETED", pod_object(metadata={"name": "one", "uid": "one"}))
        await until(lambda: mirror.gone == ["one"])


async def test_an_unsure_answer_about_a_pod_that_left_keeps_it(api) -> None:
    pod = make(api, "one")
    async with mirroring(api) as mirror:
        api.script("GET", f"{PODS}/one", refusing(403, "Forbidden", "no"), refusing(500, "InternalError", "no"))
        api.put(f"{PODS}/one", merged(pod, {"metadata": {"labels": None}}))
        await until(lambda: api.log.count(("GET", f"{PODS}/one")) == 1)
        api.watches[0].end()
        await until(lambda: api.log.count(("GET", f"{PODS}/one")) == 2)
        await mirror.watches(1)
        assert mirror.shown == {"one"}


async def test_an_eviction_is_seen_as_leaving_and_then_as_gone(api) -> None:
    make(api, "one")
    async with mirroring(api) as mirror:
        await api.client.request("POST", f"{PODS}/one/eviction", body={"kind": "Eviction", "deleteOptions": {"gracePeriodSeconds": 60}})
        await until(lambda: mirror.cache.get("one").value.is_deleting)
        assert mirror.gone == []
        api.remove(f"{PODS}/one")
        await until(lambda: mirror.gone == ["one"])
    assert ("GET", f"{PODS}/one") not in api.log, "a pod that was leaving is believed to be gone"


async def test_children_of_a_job_that_is_gone_are_told_one_by_one(api) -> None:
    job = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support-bot"
    api.put(job, {"metadata": {"uid": UID}})
    for name in ("one", "two"):
        make(api, name)
    async with mirroring(api) as mirror:
        assert api.collect_garbage() == []
        api.remove(job)
        assert set(api.collect_garbage()) == {f"{PODS}/one", f"{PODS}/two"}
        await until(lambda: sorted(mirror.gone) == ["one", "two"])


@pytest.mark.parametrize("answer", [refusing(403, "Forbidden", "no"), refusing(500, "InternalError", "no"), drop])
async def test_a_start_without_an_api_server_is_waited_out(api, answer) -> None:
    make(api, "one")
    api.script("GET", "limit=", *[answer] * 6)
    async with mirroring(api) as mirror:
        assert mirror.shown == {"one"}
        assert mirror.num_lists >= 4


async def test_an_absence_in_between_leaves_the_cache_as_it_was(api) -> None:
    make(api, "one")
    async with mirroring(api) as mirror:
        api.script("GET", "watch", *[refusing(503, "ServiceUnavailable", "no")] * 3)
        api.script("GET", "limit=", *[refusing(503, "ServiceUnavailable", "no")] * 3)
        api.watches[0].cut()
        await until(lambda: len(api.log) >= 4)
        assert mirror.shown == {"one"}
        await mirror.watches(1)
        make(api, "two")
        await until(lambda: mirror.shown == {"one", "two"})
    assert mirror.gone == []


class Waits:
    """Stands for the back-off: no wait is long, and after how many failures each came is remembered."""

    def __init__(self) -> None:
        self.failures: list[int] = []

    def spread_after(self, num_failures: int, _random: random.Random) -> float:
        self.failures.append(num_failures)
        return 0.01


@pytest.mark.parametrize("answer", [refusing(410, "Expired", "no"), refusing(403, "Forbidden", "no"), drop], ids=["410", "403", "broken"])
async def test_failures_in_a_row_are_waited_for_longer_and_longer_and_the_first_is_not(api, monkeypatch, answer) -> None:
    waits = Waits()
    monkeypatch.setattr(informer_module, "_BACKOFF", waits)
    api.script("GET", "watch", *[answer] * (8 if answer is drop else 4))
    async with mirroring(api):
        await until(lambda: len(waits.failures) >= 3)
    assert waits.failures[:3] == [1, 2, 3]


async def test_a_stream_that_ended_as_it_should_is_begun_anew_at_once(api, monkeypatch) -> None:
    waits = Waits()
    monkeypatch.setattr(informer_module, "_BACKOFF", waits)
    monkeypatch.setattr(informer_module, "HEALTHY_STREAM_SECONDS", 0.0)
    async with mirroring(api) as mirror:
        for number in range(4):
            await mirror.watches(number)
            api.watches[-1].end()
        await mirror.watches(4)
    assert waits.failures == []


async def test_streams_that_end_at_once_are_waited_for(api, monkeypatch) -> None:
    waits = Waits()
    monkeypatch.setattr(informer_module, "_BACKOFF", waits)
    async with mirroring(api) as mirror:
        for number in range(3):
            await mirror.watches(number)
            api.watches[-1].end()
        await mirror.watches(3)
    assert waits.failures[:2] == [1, 2]
