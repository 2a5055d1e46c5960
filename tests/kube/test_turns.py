"""Turns of writes: fair among namespaces, weighted among lanes, and nobody who left is served."""

import asyncio

import pytest

from finetune_operator.api.status import JobStatus
from finetune_operator.kube.job_view import render_status
from finetune_operator.kube.turns import INTENT_FIELDS, Lane, Pace, Turns, lane_of, payer_of


def slow_turns() -> Turns:
    pace = Pace(rate=1000, burst=1)
    pace.try_take()
    return Turns(pace)


async def served(turns: Turns, *wanted: tuple[Lane, str]) -> list[tuple[Lane, str]]:
    order: list[tuple[Lane, str]] = []

    async def write(lane: Lane, payer: str) -> None:
        await turns.take(lane, payer)
        order.append((lane, payer))

    await asyncio.gather(*(write(*one) for one in wanted))
    return order


@pytest.mark.parametrize("noisy_lane", list(Lane))
@pytest.mark.parametrize("quiet_lane", [Lane.INTENT, Lane.REPORT])
async def test_the_backlog_of_a_namespace_delays_another_by_a_few_slots_in_any_lane(noisy_lane, quiet_lane) -> None:
    order = await served(slow_turns(), *[(noisy_lane, "noisy")] * 200, (quiet_lane, "quiet"))
    assert order.index((quiet_lane, "quiet")) <= 6


async def test_pods_come_before_reports_before_events_and_none_starves() -> None:
    wanted = [(lane, "one") for lane in Lane for _ in range(100)]
    first = [lane for lane, _ in (await served(slow_turns(), *wanted))[:84]]
    assert [first.count(lane) for lane in Lane] == [64, 16, 4]


async def test_a_caller_that_is_cancelled_leaves_and_takes_no_token() -> None:
    turns = Turns(Pace(rate=0.001, burst=0))
    callers = [asyncio.create_task(turns.take(Lane.INTENT, "one")) for _ in range(50)]
    await asyncio.sleep(0)
    assert turns.num_waiting(Lane.INTENT) == 50
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert turns.num_waiting(Lane.INTENT) == 0


async def test_those_who_stay_are_served_in_their_order_when_one_between_them_leaves() -> None:
    turns, order = slow_turns(), []

    async def write(name: str) -> None:
        await turns.take(Lane.INTENT, "one")
        order.append(name)

    callers = [asyncio.create_task(write(name)) for name in "abc"]
    await asyncio.sleep(0)
    callers[1].cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert order == ["a", "c"]


def test_a_pace_gives_its_burst_at_once_and_then_its_rate() -> None:
    moment = [50.0]
    pace = Pace(rate=2.0, burst=3.0, clock=lambda: moment[0])
    assert [pace.try_take() for _ in range(5)] == [True, True, True, False, False]
    assert pace.seconds_until_next() == pytest.approx(0.5)
    moment[0] += 0.25
    assert pace.seconds_until_next() == pytest.approx(0.25)
    assert not pace.try_take()
    moment[0] += 0.25
    assert pace.seconds_until_next() == 0.0
    assert [pace.try_take() for _ in range(2)] == [True, False]
    moment[0] += 1000
    assert [pace.try_take() for _ in range(4)] == [True, True, True, False], "no more than the burst is saved"
    moment[0] -= 10
    assert not pace.try_take(), "a clock that goes back gives nothing"


@pytest.mark.parametrize(
    ("path", "body", "lane"),
    [
        ("/api/v1/namespaces/a/pods", {}, Lane.INTENT),
        ("/apis/events.k8s.io/v1/namespaces/a/events", {}, Lane.EVENT),
        ("/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x/status", {"status": {"progress": {}}}, Lane.REPORT),
        ("/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x/status", {"status": {"progress": {}, "members": []}}, Lane.INTENT),
    ],
)
def test_the_lane_of_a_write_follows_from_what_it_writes(path, body, lane) -> None:
    assert lane_of(path, body) is lane
    assert payer_of(path) == "a"


def test_intent_names_fields_that_exist() -> None:
    known = {field.alias or name for name, field in JobStatus.model_fields.items()}
    assert known >= INTENT_FIELDS, INTENT_FIELDS - known
    assert render_status(JobStatus())
