"""Events over HTTP: what repeats is one object, what is too much is dropped, and whatever is refused ends nothing."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.coordinator.test_channel import until
from tests.kube.api_server import ApiServer, drop, refusing
from tests.kube.builders import NOW, UID, job

from finetune_operator.decide.answers.decision import Event
from finetune_operator.kube import events as events_module
from finetune_operator.kube.events import EventRecorder
from finetune_operator.kube.meters import Meters

EVENTS = "/apis/events.k8s.io/v1/namespaces/team-a/events"


class Bench:
    """One recorder; `now` is both of its clocks."""

    def __init__(self, api: ApiServer) -> None:
        self.seconds, self.registry, self.api = 0.0, CollectorRegistry(), api
        self.recorder = EventRecorder(api.client, instance="op-1", clock=self, monotonic=lambda: self.seconds, meters=Meters(self.registry))

    def now(self) -> Any:
        return NOW + timedelta(seconds=self.seconds)

    def record(self, reason: str = "Started", message: str = "formation 1", **metadata: Any) -> None:
        self.recorder.record(job(metadata=metadata), Event(type="Normal", reason=reason, message=message))

    @property
    def stored(self) -> list[dict]:
        return [self.api.objects[path] for path in self.api.paths("/events/")]

    @property
    def num_dropped(self) -> float | None:
        return self.registry.get_sample_value("finetune_operator_events_dropped_total")


@asynccontextmanager
async def running(bench: Bench):
    task = asyncio.create_task(bench.recorder.run())
    yield bench
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_says_what_happened_to_which_job_and_who_says_so(api) -> None:
    async with running(Bench(api)) as bench:
        bench.record(message="\u00e9" * 800)
        await until(lambda: bench.stored)
    [event] = bench.stored
    assert (event["type"], event["reason"], event["action"], event["eventTime"]) == (
        "Normal",
        "Started",
        "Started",
        "2026-01-02T00:00:00.000000Z",
    )
    assert (event["reportingController"], event["reportingInstance"]) == ("finetune.dev/operator", "op-1")
    assert (event["regarding"]["name"], event["regarding"]["uid"], event["metadata"]["namespace"]) == ("support-bot", UID, "team-a")
    assert event["note"] == "\u00e9" * 500, "a thousand bytes at most, and no half of a character"
    assert "series" not in event


async def test_what_repeats_within_ten_minutes_raises_a_count(api) -> None:
    async with running(Bench(api)) as bench:
        for _ in range(3):
            bench.record()
            await until(lambda: not bench.recorder._lines and bench.stored)
            bench.seconds += 599
        await until(lambda: bench.stored[0]["series"]["count"] == 3)
        [event] = bench.stored
        assert event["series"] == {"count": 3, "lastObservedTime": "2026-01-02T00:19:58.000000Z"}
        bench.seconds += 1
        bench.record()
        await until(lambda: len(bench.stored) == 2)
    assert "series" not in bench.stored[1]


async def test_what_repeats_before_it_is_written_is_counted_in_one_request(api) -> None:
    bench = Bench(api)
    for _ in range(200):
        bench.record()
        bench.seconds += 1
    async with running(bench):
        await until(lambda: bench.stored)
    assert bench.stored[0]["series"]["count"] == 200
    assert len(api.log) == 1
    assert bench.num_dropped == 0


async def test_a_series_that_the_api_server_has_forgotten_begins_anew(api) -> None:
    async with running(Bench(api)) as bench:
        bench.record()
        await until(lambda: bench.stored)
        api.objects.clear()
        bench.record()
        await until(lambda: bench.stored)
    assert [verb for verb, _ in api.log] == ["POST", "PATCH", "POST"]


@pytest.mark.parametrize("answer", [refusing(403, "Forbidden", "namespace is being terminated"), refusing(500, "", ""), drop])
async def test_an_event_that_is_refused_is_lost_and_the_next_is_written(api, answer) -> None:
    api.script("POST", "/events", answer)
    async with running(Bench(api)) as bench:
        bench.record("First")
        bench.record("Second")
        await until(lambda: bench.stored)
    assert [event["reason"] for event in bench.stored] == ["Second"]


async def test_a_job_that_says_much_is_cut_short_and_another_is_heard(api) -> None:
    bench = Bench(api)
    for number in range(60):
        bench.record(f"R{number}")
    bench.record("Other", uid="another")
    assert bench.num_dropped == 35
    bench.seconds += 20
    for number in range(60, 70):
        bench.record(f"R{number}")
    assert bench.num_dropped == 43, "two more in twenty seconds"
    async with running(bench):
        await until(lambda: len(bench.stored) == 28)
    assert {event["reason"] for event in bench.stored} >= {"R0", "R24", "Other", "R60", "R61"}


async def test_a_namespace_that_says_much_is_cut_short_and_another_comes_in_turn(api) -> None:
    bench = Bench(api)
    for number in range(150):
        bench.record(f"R{number}", uid=f"uid-{number}")
    bench.record("Quiet", namespace="team-b")
    assert bench.num_dropped == 50
    async with running(bench):
        await until(lambda: len(bench.stored) == 101)
    assert [path for _, path in api.log].index(EVENTS.replace("team-a", "team-b")) == 1


async def test_what_is_remembered_of_jobs_and_series_is_bounded(api, monkeypatch) -> None:
    for name in ("_MAX_SERIES", "_MAX_PACES"):
        monkeypatch.setattr(events_module, name, 3)
    async with running(Bench(api)) as bench:
        for number in range(8):
            bench.record(uid=f"uid-{number}")
            await until(lambda: not bench.recorder._lines)
        await until(lambda: len(bench.stored) == 8)
        assert [uid for uid, _ in bench.recorder._series] == ["uid-5", "uid-6", "uid-7"]
        assert list(bench.recorder._jobs._paces) == ["uid-5", "uid-6", "uid-7"]


async def test_a_budget_of_a_job_is_its_own_and_not_begun_anew(api) -> None:
    bench = Bench(api)
    for _ in range(3):
        for number in range(10):
            bench.record(f"R{number}{bench.seconds}")
        bench.seconds += 1
    assert bench.num_dropped == 5
