"""Nothing that an object holds ends or blocks the operator: every parser of live objects answers, whatever it is given."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.fuzz import fuzz
from tests.builders.machine import HANG_SECONDS
from tests.builders.texts import texts
from tests.kube.builders import Strangers, job_object, pod_object, terminated

from finetune_operator.api.job import FineTuneJob
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.certificates import parse_authority
from finetune_operator.kube.client import ApiError, Unreachable
from finetune_operator.kube.informer import Informer, Listeners, Source
from finetune_operator.kube.job_view import UnreadableJob, parse_identity, parse_job, render_unreadable_patch
from finetune_operator.kube.lease import parse_lease
from finetune_operator.kube.pod_view import controller_of, parse_pod_entry
from finetune_operator.kube.shape import Unreadable

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts(20),
    st.sampled_from(["\ud800", "\u00b2", "9" * 5000, "2026-13-01T00:00:00Z", "2026-01-01", "finetune.dev/v1alpha1", "Resizing", ""]),
)
ANYTHING = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(8), inner, max_size=3), max_leaves=8)
REAL = {
    "pod": pod_object(
        metadata={"deletionTimestamp": "2026-01-01T00:03:00Z"},
        status={
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}],
            "containerStatuses": terminated(exitCode=1, reason="Error", message='{"failure_class": "Internal", "message": "x"}'),
        },
    ),
    "job": job_object(
        status={
            "conditions": [{"type": "Stalled", "status": "False", "reason": "GoesOn", "message": "", "observedGeneration": 1}],
            "members": [{"serial": 1, "uid": "u"}],
            "formation": {"number": 1, "serials": [1], "uids": ["u"], "masterPort": 1, "orderedAt": "2026-01-01T00:00:00Z"},
        }
    ),
    "lease": {"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 3}},
    "secret": {
        "metadata": {"resourceVersion": "1"},
        "data": {"ca.crt": "eA==", "ca.key": "eA==", "next.crt": "eA==", "retired.crt": "eA=="},
    },
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """To every part of an object, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in paths(part, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@st.composite
def mutated(draw, kind: str) -> Any:
    """A real object with one to three parts replaced by something else, or nothing that resembles one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(ANYTHING)
    item = REAL[kind]
    for _ in range(draw(st.integers(1, 3))):
        item = changed(item, draw(st.sampled_from(paths(item))), draw(ANYTHING))
        if not isinstance(item, dict):
            break
    return item


QUICK = fuzz(60)


@QUICK
@given(mutated("pod"))
def test_any_pod_is_a_members_unreadable_or_nobodys(item) -> None:
    entry = parse_pod_entry(item)
    assert entry is None or isinstance(entry, Entry | Unreadable)
    if isinstance(entry, Entry):
        assert all(isinstance(part, str) and part for part in (*entry.owner_key, entry.owner_uid, entry.uid, entry.value.name))
        assert entry.value.serial < 10**10
        assert entry.value.created_at.tzinfo is not None
        assert controller_of(item) is not None


@QUICK
@given(mutated("job"))
def test_any_job_is_read_unreadable_or_none(item) -> None:
    job = parse_job(item)
    assert job is None or isinstance(job, FineTuneJob | UnreadableJob)
    assert (parse_identity(item) is None) == (job is None)
    if isinstance(job, UnreadableJob):
        assert job.message
        patch = render_unreadable_patch(job, "2026-01-01T00:00:00Z")
        assert patch is None or patch["status"]["conditions"][-1]["reason"] == "Unreadable"


@QUICK
@given(mutated("lease"))
def test_any_lease_has_a_holder_a_term_and_an_end(item) -> None:
    lease = parse_lease(item, unchanged_seconds=1.0)
    assert isinstance(lease.holder, str)
    assert 0 <= lease.transitions < 2**31
    assert 0 < lease.duration_seconds <= 3600


@QUICK
@given(mutated("secret"))
def test_any_secret_is_an_authority_or_none(item) -> None:
    assert parse_authority(item) is None, "the healthy one of this test holds no certificate either"


class Streams:
    """Stands where the client stands: one list, then the events of one stream after the other, then silence."""

    def __init__(self, items: list[Any], streams: list[list[Any]]) -> None:
        self.items, self.streams, self.num_lists = items, streams, 0

    async def list_all(self, path: str, read: Any, query: dict) -> tuple[list[Any], str]:
        self.num_lists += 1
        return [one for item in self.items if (one := read(item)) is not None], "100"

    async def watch(self, path: str, query: dict, **_: Any):
        for event in self.streams.pop(0) if self.streams else []:
            if isinstance(event, Exception):
                raise event
            yield event
        if not self.streams:
            await asyncio.Event().wait()

    async def request(self, *_: Any, **__: Any) -> Any:
        raise ApiError(404, "NotFound", "gone")


class Pods:
    """A real informer of pods. `boom` is a uid at which the listener fails."""

    def __init__(self, items: list[Any], streams: list[list[Any]], boom: str = "") -> None:
        self.cache, self.strangers, self.boom = ObjectCache(), Strangers(), boom
        self.changed: list[str] = []
        self.gone: list[tuple[str, str]] = []
        self.client = Streams(items, streams)
        self.informer = Informer(
            self.client,  # type: ignore[arg-type]
            Source(prefix="/api/v1", resource="pods", namespace=None, label_selector="x"),
            self.cache,
            parse=parse_pod_entry,
            listeners=Listeners(
                on_change=self.hear, on_gone=lambda entry: self.gone.append((entry.uid, entry.owner_uid)), on_gap=lambda: None
            ),
            strangers=self.strangers,
            random_source=random.Random(1),
        )

    def hear(self, entry: Entry) -> None:
        if entry.uid == self.boom:
            raise LookupError("a fault of ours")
        self.changed.append(entry.uid)

    async def see(self, uid: str) -> None:
        """Run until that pod was told of."""
        task = asyncio.create_task(self.informer.run())
        async with asyncio.timeout(HANG_SECONDS):
            while uid not in self.changed:
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def a_pod(uid: str, version: int = 1, **metadata: Any) -> dict[str, Any]:
    return pod_object(metadata={"uid": uid, "name": uid, "resourceVersion": str(version), **metadata})


LAST = ("ADDED", a_pod("last", 900))
STRANGE = [
    {},
    None,
    [],
    "pod",
    {"metadata": None},
    {"metadata": {"uid": ["x"]}},
    a_pod("no-job-label", labels={"finetune.dev/job": None}),
    a_pod("no-labels", labels=None),
    a_pod("odd-owner", ownerReferences=[None, 7, {"kind": "FineTuneJob", "controller": True}]),
    a_pod("no-time", creationTimestamp="yesterday"),
    a_pod("x") | {"status": {"phase": "Resizing", "conditions": [{"reason": "no type"}]}},
]


@pytest.mark.parametrize("item", STRANGE)
async def test_one_strange_pod_hides_no_other_in_a_list_or_in_a_stream(item) -> None:
    pods = Pods([item, a_pod("first")], [[("ADDED", item), ("MODIFIED", item), ("DELETED", item), ("LATER", item), LAST]])
    await pods.see("last")
    assert "first" in pods.changed
    assert pods.client.num_lists == 1


@pytest.mark.parametrize(
    "event", [("ADDED",), 7, ValueError("no JSON"), KeyError("type"), ApiError(500, "", ""), ApiError(410, "Expired", ""), Unreachable("")]
)
async def test_a_stream_that_makes_no_sense_is_begun_anew(event) -> None:
    await Pods([], [[event], [LAST]]).see("last")


async def test_a_fault_of_a_listener_ends_neither_the_watch_nor_the_process() -> None:
    await Pods([], [[("ADDED", a_pod("boom", 2))], [LAST]], boom="boom").see("last")


async def test_an_unreadable_version_of_a_member_changes_nothing() -> None:
    pods = Pods([a_pod("one")], [[("MODIFIED", a_pod("one", 5, creationTimestamp="never")), LAST]])
    await pods.see("last")
    assert pods.gone == []
    assert pods.cache.get("one").resource_version == "1"


async def test_a_pod_that_changes_its_owner_leaves_no_ghost() -> None:
    mine = a_pod("one")
    other = [mine["metadata"]["ownerReferences"][0] | {"uid": "job-b", "name": "b"}]
    pods = Pods([mine], [[("MODIFIED", a_pod("one", 5, ownerReferences=other)), LAST]])
    await pods.see("last")
    owner = mine["metadata"]["ownerReferences"][0]["uid"]
    assert pods.gone == [("one", owner)]
    assert {view.uid for view in pods.cache.of_owner("team-a", owner)} == {"last"}
    assert {view.uid for view in pods.cache.of_owner("team-a", "job-b")} == {"one"}


async def test_a_pod_that_loses_its_owner_is_a_members_no_more() -> None:
    pods = Pods([a_pod("one")], [[("MODIFIED", a_pod("one", 5, ownerReferences=None)), LAST]])
    await pods.see("last")
    assert [uid for uid, _ in pods.gone] == ["one"]


async def test_streams_that_break_at_once_are_not_a_hot_loop() -> None:
    pods = Pods([], [[KeyError("type")] for _ in range(1000)])
    task = asyncio.create_task(pods.informer.run())
    await asyncio.sleep(1.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pods.client.num_lists <= 5
