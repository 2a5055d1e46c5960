"""More gangs than room: they take turns, say why they wait, and never block each other for ever."""

import pytest
from tests.stories.world import World

from finetune_operator.times import LONGEST_BLOCK_SECONDS, TURN_SECONDS

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


def grow_by_one(world: World, name: str) -> None:
    resources = world.job(name).spec.resources
    size = resources.nodes.min + 1
    nodes = resources.nodes.model_copy(update={"min": size, "max": size})
    world.change_spec(name, resources=resources.model_copy(update={"nodes": nodes}))


def delete_the_oldest_pod(world: World, name: str) -> None:
    world.pods.delete_with_grace(world.live_pods(name)[0], 0)


async def train_and_then_fit_nowhere(*, slots: int, num_nodes: int) -> World:
    """A job trains; no node would take another of its pods."""
    world = World(slots=slots, total_steps=1_000_000)
    world.apply("tenant", nodes=(num_nodes, num_nodes), placement={"timeout_seconds": 86400})
    await world.until_step(1, "tenant")
    world.pods.unplaceable = {"tenant"}
    return world


async def seconds_until_trained(world: World, name: str, *, trick, every_seconds: float) -> float:
    """Meanwhile `tenant` does its trick again and again."""
    began = last = world.clock.now()
    world.apply(name, nodes=(1, 1))
    while world.status(name).formation is None:
        assert (world.clock.now() - began).total_seconds() < 900, f"{name} never came to train"
        if (world.clock.now() - last).total_seconds() >= every_seconds:
            last = world.clock.now()
            trick(world, "tenant")
        await world.tick()
    return (world.clock.now() - began).total_seconds()


async def test_a_running_job_that_asks_for_more_than_there_is_stops_nobody() -> None:
    world = await train_and_then_fit_nowhere(slots=3, num_nodes=1)
    grow_by_one(world, "tenant")
    await world.tick(2)
    assert await seconds_until_trained(world, "other", trick=grow_by_one, every_seconds=290) <= 10


async def test_a_job_that_deletes_its_replacements_goes_before_others_for_five_minutes_in_all() -> None:
    world = await train_and_then_fit_nowhere(slots=2, num_nodes=2)
    for _ in range(2):
        delete_the_oldest_pod(world, "tenant")
    await world.tick(2)
    seconds = await seconds_until_trained(world, "other", trick=delete_the_oldest_pod, every_seconds=140)
    assert TURN_SECONDS < seconds <= LONGEST_BLOCK_SECONDS + 10


async def test_the_jobs_of_a_namespace_go_before_others_for_five_minutes_together() -> None:
    world = World(slots=4, total_steps=1_000_000)
    mine = ["t1", "t2", "t3"]
    for name in mine:
        world.apply(name, nodes=(1, 1), placement={"timeout_seconds": 86400})
        await world.until_step(1, name)
    world.pods.unplaceable = set(mine)
    lost = iter(mine)
    delete_the_oldest_pod(world, next(lost))
    await world.tick(2)
    seconds = await seconds_until_trained(
        world, "other", trick=lambda world, _: delete_the_oldest_pod(world, next(lost, "t3")), every_seconds=140
    )
    assert TURN_SECONDS < seconds <= LONGEST_BLOCK_SECONDS + 10
    assert len({world.status(name).replacing_since for name in mine}) == 1
    before = world.status("t1").replacing_since
    world.delete_job("t1")
    await world.tick(2)
    assert world.reconciler._line.first_loss("default", world.clock.now()) == before
    world.restart_operator()
    await world.tick(8)
    assert world.reconciler._line.first_loss("default", world.clock.now()) == before, "another status says it too"


async def test_a_gang_in_placement_that_replaces_its_members_gets_no_new_turn_by_that() -> None:
    world = World(slots=2, total_steps=6)
    world.apply("tenant", nodes=(3, 3), priority=10, placement={"timeout_seconds": 86400})
    await world.tick(2)

    def delete_one_with_a_node(world: World, name: str) -> None:
        placed = [uid for uid in world.live_pods(name) if world.pods.pods[uid].view.node is not None]
        for uid in placed[:1]:
            world.pods.delete_with_grace(uid, 0)

    assert await seconds_until_trained(world, "other", trick=delete_one_with_a_node, every_seconds=20) <= 2 * TURN_SECONDS + 10
