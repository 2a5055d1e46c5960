"""Many gangs and little room: no herd, no API calls for nothing, extras and spares last, and nothing that fits waits for what does not."""

import os
from dataclasses import replace

from tests.stories.world import World

PATIENCE = {"placement": {"timeout_seconds": 20}}


def num_calls(world: World) -> int:
    """Requests to an API server: status writes, creations, deletions, events."""
    return sum(world._num_effects())


async def complete(world: World, *names: str, within_seconds: float) -> None:
    await world.until(lambda: all(world.status(name).phase == "Complete" for name in names), within_seconds=within_seconds)


async def test_gangs_of_two_in_four_places_make_few_pods_for_nothing() -> None:
    """HERD_JOBS=80 makes it the herd of the promise (at most 200 pods); the time it takes grows with the square."""
    world = World(slots=4, total_steps=3)
    num_jobs = int(os.environ.get("HERD_JOBS") or 32)
    names = [f"j{number:02d}" for number in range(num_jobs)]
    for name in names:
        world.apply(name)
    await complete(world, *names, within_seconds=2000)
    assert 2 * num_jobs <= len(world.pods.made) <= 2.5 * num_jobs


async def test_the_end_of_the_first_of_forty_waiting_jobs_costs_ten_calls() -> None:
    world = World(slots=2, total_steps=10_000)
    world.apply("running")
    await world.until_step(1, "running")
    names = [f"j{number:02d}" for number in range(40)]
    for name in names:
        world.apply(name)
    await world.tick(4)
    assert await world.is_quiet(), "whoever waits makes no calls"
    before = num_calls(world) - world.status("running").progress.step
    world.delete_job("j00")
    await world.tick(4)
    assert num_calls(world) - world.status("running").progress.step - before <= 10
    assert world.status("j01").columns.reason == "Unschedulable"


async def test_a_gang_that_never_fits_holds_up_nobody_whatever_its_priority_and_its_timeout() -> None:
    world = World(slots=4, total_steps=6)
    world.apply("squatter", nodes=(5, 5), priority=1_000_000, placement={"timeout_seconds": 86400})
    await world.tick(2)
    for name in ("a", "b"):
        world.apply(name)
    started = world.clock.now()
    await complete(world, "a", "b", within_seconds=120)
    assert (world.clock.now() - started).total_seconds() <= 60


async def test_a_gang_that_no_node_can_take_is_passed_over_and_stays_for_the_autoscaler() -> None:
    world = World(slots=4, total_steps=6)
    world.apply("typo", priority=10)
    world.pods.unplaceable = {"typo"}
    await world.tick(2)
    world.apply("a")
    await complete(world, "a", within_seconds=60)
    assert world.live_pods("typo"), "it waits for a node that may come"


async def test_a_big_gang_is_not_starved_by_a_stream_of_small_ones() -> None:
    world = World(slots=8, total_steps=20)
    for number in range(8):
        world.apply(f"old{number}", nodes=(1, 1))
        await world.tick(3)
    world.apply("big", nodes=(8, 8))
    for number in range(30):
        world.apply(f"new{number:02d}", nodes=(1, 1))
        await world.tick(3)
        if world.status("big").formation is not None:
            break
    assert world.status("big").formation is not None
    assert not any(world.status(key[1]).formation for key in world.jobs.jobs if key[1].startswith("new"))


async def test_extras_are_asked_for_when_nobody_waits_and_never_overtake_a_more_urgent_gang() -> None:
    world = World(slots=4, total_steps=400)
    world.apply("wide", nodes=(1, 6))
    await world.until(lambda: len(world.live_pods("wide")) == 6)
    await world.until_step(3, "wide")
    world.apply("urgent", nodes=(3, 3), priority=1000, **PATIENCE)
    await world.until(lambda: world.status("urgent").columns.reason == "BackingOff")
    assert len(world.live_pods("wide")) == 4
    world.pods.slots = 5
    await world.tick(4)
    assert len(world.live_pods("wide")) == 4, "it does not grow into what the urgent gang waits for"
    world.pods.slots = 7
    await world.until_step(1, "urgent")
    assert world.status("wide").phase == "Training"


async def test_running_spares_are_given_back_when_a_gang_has_no_room() -> None:
    world = World(slots=4, total_steps=400)
    world.apply("rich", spares=2)
    await world.until(lambda: world.status("rich").ready_spares == 2)
    world.apply("poor")
    await world.until_step(1, "poor")
    assert world.status("rich").phase == "Training"
    assert world.reasons("rich").count("SpareGivenBack") == 2


async def test_a_member_that_ends_calls_the_first_of_those_that_quota_refused() -> None:
    world = World(total_steps=30)
    world.pods.quota = 2
    world.apply("runs")
    await world.until_step(1, "runs")
    for name in ("b", "c", "d"):
        world.apply(name)
    await world.until(lambda: world.status("d").columns.reason == "BackingOff", within_seconds=120)
    await world.until_phase("Complete", "runs", within_seconds=120)
    ended = world.clock.now()
    await world.until(lambda: any(world.status(name).formation for name in ("b", "c", "d")), within_seconds=600)
    assert (world.clock.now() - ended).total_seconds() <= 5


async def test_gangs_that_gave_back_together_come_back_at_different_moments() -> None:
    world = World(total_steps=6)
    world.pods.refusal = "403 exceeded quota"
    names = [f"j{number}" for number in range(6)]
    for name in names:
        world.apply(name)
    await world.until(lambda: all(world.status(name).placement.attempts >= 3 for name in names), within_seconds=600)
    assert len({world.status(name).placement.backoff_until for name in names}) == 6


async def test_a_gang_whose_images_cannot_be_pulled_gives_its_nodes_back_and_fails_the_third_time() -> None:
    world = World(slots=2, total_steps=6)
    world.pods.waiting = {"broken": "ImagePullBackOff: not found"}
    world.apply("broken", placement={"start_timeout_seconds": 60, "timeout_seconds": 20})
    await world.until(lambda: world.status("broken").failed_starts.count == 1, within_seconds=80)
    assert not world.live_pods("broken")
    assert world.reasons("broken").count("GaveBack") == 1
    why = "placement.startTimeoutSeconds): ImagePullBackOff: not found (and 1 more)"
    assert why in world.status("broken").condition("Stalled").message
    world.apply("healthy")
    await complete(world, "healthy", within_seconds=90)
    await world.until_phase("Failed", "broken", within_seconds=600)
    failed = world.status("broken").condition("Failed")
    assert failed.reason == "NeverStarted"
    assert failed.message.endswith("this happened 3 times in a row")
    assert await world.rests("broken")


async def test_a_gang_that_reaches_no_model_gives_its_nodes_back_and_fails_the_third_time() -> None:
    world = World(slots=2, total_steps=6)
    world.agents.waits_for_a_store = {world.apply("lost", placement={"start_timeout_seconds": 60}).metadata.uid}
    await world.until(lambda: world.status("lost").failed_starts.count == 1, within_seconds=80)
    assert not world.live_pods("lost")
    stalled = world.status("lost").condition("Stalled")
    assert stalled.reason == "NeverStarted"
    assert "(placement.startTimeoutSeconds): spec.model.uri: no.such.host does not answer (and 1 more)" in stalled.message
    world.apply("healthy")
    await complete(world, "healthy", within_seconds=90)
    await world.until_phase("Failed", "lost", within_seconds=600)
    assert world.status("lost").condition("Failed").reason == "NeverStarted"
    assert await world.rests("lost")


async def test_a_store_that_answers_at_last_is_no_failed_start() -> None:
    world = World(slots=2, total_steps=6)
    uid = world.apply("late", placement={"start_timeout_seconds": 60}).metadata.uid
    world.agents.waits_for_a_store = {uid}
    await world.tick(100)
    world.agents.waits_for_a_store = set()
    await complete(world, "late", within_seconds=60)
    assert world.reasons("late").count("GaveBack") == 0


async def test_a_job_that_has_trained_waits_for_its_store() -> None:
    world = World(slots=2, total_steps=60)
    uid = world.apply("bot", placement={"start_timeout_seconds": 60}).metadata.uid
    await world.until_step(3)
    world.agents.waits_for_a_store = {uid}
    for pod in world.live_pods():
        world.pods.delete_with_grace(pod, 0)
    await world.tick(400)
    assert world.reasons("bot").count("GaveBack") == 0
    world.agents.waits_for_a_store = set()
    await complete(world, "bot", within_seconds=90)


async def test_a_deadline_counts_the_time_with_pods_and_no_other() -> None:
    world = World(slots=2, total_steps=10_000)
    world.apply("first", nodes=(2, 2), active_deadline_seconds=60)
    await world.until_step(5, "first")
    world.change_spec("first", suspend=True)
    await world.until_phase("Suspended", "first")
    await world.tick(400)
    world.change_spec("first", suspend=False)
    await world.until_step(20, "first")
    began = world.clock.now()
    await world.until_phase("Failed", "first", within_seconds=60)
    assert world.status("first").condition("Failed").reason == "DeadlineExceeded"
    assert 20 < (world.clock.now() - began).total_seconds() < 60


async def test_a_gated_gang_names_the_setting_of_kueue() -> None:
    world = World(total_steps=6)
    world.pods.is_gated = True
    world.apply()
    await world.tick(4)
    admitted = world.status().condition("Admitted")
    assert (admitted.status, admitted.reason) == ("False", "CapturedByKueue")
    assert "managedJobsNamespaceSelector" in admitted.message
    assert world.reasons().count("CapturedByKueue") == 1
    world.pods.is_gated = False
    for pod in world.pods.pods.values():
        pod.view = replace(pod.view, is_captured_by_kueue=False)
    await world.until_phase("Complete")
