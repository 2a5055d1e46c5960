"""More gangs than room: they take turns, say why they wait, and never block each other for ever."""

import pytest
from tests.stories.world import World

PATIENCE = {"placement": {"timeout_seconds": 20}}


async def all_complete(world: World, *names: str, within_seconds: float = 600) -> None:
    for name in names:
        await world.until_phase("Complete", name, within_seconds=within_seconds)
    assert await world.rests(*names)


def first_steps(world: World, *names: str) -> list[str]:
    """Names in the order in which their training began."""
    started = [name for name, event in world.jobs.events if event.reason == "TrainingStarted"]
    return [name for name in dict.fromkeys(started) if name in names]


async def test_two_gangs_that_do_not_fit_together_run_one_after_the_other() -> None:
    world = World(slots=2, total_steps=10)
    world.apply("first")
    world.apply("second")
    await world.until_step(3, "first")
    admitted = world.status("second").condition("Admitted")
    assert (admitted.status, admitted.reason) == ("False", "Unschedulable")
    assert admitted.message == "0/1 nodes are available: 1 Insufficient cpu."
    assert world.status("second").formation is None
    await all_complete(world, "first", "second")
    assert first_steps(world, "first", "second") == ["first", "second"]
    assert world.status("first").last_formation == 1, "the first was not disturbed"


async def test_gangs_that_fit_are_let_in_one_by_one_and_twice_as_many_in_each_round() -> None:
    world = World(slots=100, total_steps=10)
    names = [f"j{number:02d}" for number in range(15)]
    for name in names:
        world.apply(name)
    let_in = []
    for _ in range(4):
        await world.tick(1)
        let_in.append(sum(bool(world.made(name)) for name in names))
    assert let_in == [1, 3, 7, 15]
    await all_complete(world, *names, within_seconds=30)


@pytest.mark.parametrize("slots", [2, 3, 4, 5])
async def test_more_gangs_than_room_come_one_after_the_other_however_unkind_the_scheduler_is(slots) -> None:
    world = World(slots=slots, total_steps=6)
    world.pods.is_unkind = True
    names = ("a", "b", "c", "d")
    for name in names:
        world.apply(name, **PATIENCE)
    await all_complete(world, *names)
    assert all(world.status(name).restarts.total == 0 for name in names)


async def test_the_most_urgent_gang_goes_first() -> None:
    world = World(slots=2, total_steps=6)
    world.apply("running")
    await world.until_step(1, "running")
    world.apply("old", **PATIENCE)
    world.apply("urgent", priority=10, **PATIENCE)
    await all_complete(world, "old", "urgent")
    assert first_steps(world, "old", "urgent") == ["urgent", "old"]


async def test_a_gang_that_never_fits_lets_others_go_and_says_why_it_waits() -> None:
    world = World(slots=2, total_steps=6)
    world.apply("big", nodes=(3, 3), **PATIENCE)
    world.apply("small", **PATIENCE)
    await world.until_phase("Complete", "small", within_seconds=120)
    await world.until(lambda: world.status("big").columns.reason == "BackingOff")
    why = "no room for 3 members within 20 s: 0/1 nodes are available: 1 Insufficient cpu."
    assert world.status("big").condition("Admitted").message == why
    assert not world.live_pods("big")
    assert await world.is_quiet()
    world.pods.slots = 3
    await all_complete(world, "big")


async def test_an_elastic_gang_that_trains_with_less_does_not_block_the_line() -> None:
    world = World(slots=3, total_steps=400)
    world.apply("elastic", nodes=(2, 4), **PATIENCE)
    await world.until_step(5, "elastic")
    world.apply("small", nodes=(1, 1), **PATIENCE)
    await world.until(lambda: world.status("small").columns.reason == "Unschedulable")
    assert world.reasons("elastic").count("ExtraGivenBack") == 1, "what it has no room for is not in the way of others"
    assert len(world.live_pods("elastic")) == 3
    world.pods.slots = 6
    await world.until_step(5, "small")
    assert world.status("elastic").phase == "Training"


async def test_two_training_gangs_that_lost_a_member_each_do_not_wait_for_each_other_for_ever() -> None:
    world = World(slots=4, total_steps=40)
    for name in ("a", "b"):
        world.apply(name, **PATIENCE)
    await world.until_step(5, "a")
    await world.until_step(5, "b")
    world.pods.slots = 2
    for name in ("a", "b"):
        world.pods.delete_with_grace(world.agent(1, name).uid, 0)
    await world.until(lambda: "GaveBack" in world.reasons("a") + world.reasons("b"))
    await all_complete(world, "a", "b")
    assert world.steps("a")[-1] == world.steps("b")[-1] == 40


async def test_a_gang_that_quota_refuses_gives_back_and_comes_when_there_is_room() -> None:
    world = World(total_steps=6)
    world.pods.quota = 1
    world.apply()
    await world.tick(2)
    assert world.status().columns.reason == "BackingOff"
    assert world.status().condition("Admitted").message == "the cluster refused a member: 403 exceeded quota: pods, limited: 1"
    assert not world.live_pods()
    world.pods.quota = None
    await all_complete(world, "bot")
    assert world.status().placement.attempts == 0


async def test_who_waits_is_woken_when_the_line_moves() -> None:
    world = World(slots=2, total_steps=30)
    for name in ("a", "b", "c"):
        world.apply(name)
    await world.until_step(5, "a")
    queue = world.reconciler.queue
    while queue.num_waiting:
        queue.done(await queue.take())
    world.change_spec("b", suspend=True)
    await world.reconciler.run_pass(("default", "b"))
    assert queue.num_waiting == 1
    assert await queue.take() == ("default", "c")


async def test_a_waiting_job_can_be_deleted_and_the_line_moves_on() -> None:
    world = World(slots=2, total_steps=30)
    for name in ("a", "b", "c"):
        world.apply(name, **PATIENCE)
    await world.until_step(5, "a")
    world.delete_job("b")
    await all_complete(world, "a", "c")
