"""A job with warm spares loses members: training goes on without waiting for a new pod, and the spares are in nobody's way."""

import pytest
from tests.stories.world import World

from finetune_contract.failures import FailureClass, FailureReport

TOTAL = 40
NO_MODEL = FailureReport(failure_class=FailureClass.USER_ERROR, message="403 from the hub")


async def training(*, slots: int = 100, spares: int = 1, **spec) -> World:
    """Two members train and every spare is ready."""
    world = World(slots=slots, total_steps=TOTAL)
    world.apply(spares=spares, **spec)
    await world.until_step(3)
    await world.until(lambda: world.status().ready_spares == spares)
    return world


async def completes(world: World) -> None:
    await world.until_phase("Complete", within_seconds=200)
    assert await world.rests()
    assert world.steps() == list(range(1, TOTAL + 1)), "no step was lost"


def spares(world: World, name: str = "bot") -> list[int]:
    return [entry.serial for entry in world.status(name).members if entry.is_spare]


async def test_spares_are_created_after_the_gang_and_cost_no_world_size() -> None:
    world = World(total_steps=TOTAL)
    world.apply(spares=2)
    await world.tick()
    assert world.made() == ["bot-0001-1", "bot-0001-2"], "not before the gang is placed"
    await world.until_step(3)
    await world.until(lambda: world.status().ready_spares == 2)
    assert world.made() == [f"bot-0001-{serial}" for serial in (1, 2, 3, 4)]
    assert world.status().formation.serials == (1, 2)
    assert (world.status().columns.nodes, world.status().last_formation) == ("2/2", 1)
    await completes(world)


@pytest.mark.parametrize("node_rank", [0, 1])
async def test_a_pod_is_deleted_by_force_and_a_spare_takes_its_place_at_once(node_rank) -> None:
    world = await training(slots=3)
    survivor = 2 - node_rank
    world.pods.delete_with_grace(world.agent(node_rank).uid, 0)
    world.pods.slots = 2
    await world.tick()
    assert world.status().formation.number == 2, "the new pod has no node yet"
    assert world.status().formation.serials == (survivor, 3)
    assert spares(world) == [], "the first step of the recovery comes first"
    world.pods.slots = 3
    await world.until(lambda: world.status().ready_spares == 1)
    assert (world.status().restarts.disruptions, world.status().restarts.crashes) == (1, 0)
    await completes(world)


async def test_an_agent_crashes_and_a_spare_takes_its_place() -> None:
    world = await training()
    world.pods.end(world.agent(1).uid, 1)
    await world.until(lambda: world.status().last_formation == 2, within_seconds=2)
    assert world.status().formation.serials == (1, 3)
    assert (world.status().restarts.disruptions, world.status().restarts.crashes) == (0, 1)
    await completes(world)


async def test_a_member_whose_node_is_cut_off_is_replaced_by_a_spare() -> None:
    world = await training()
    world.agent(1).is_cut_off = True
    await world.until(lambda: world.status().last_formation == 2, within_seconds=4)
    assert world.status().formation.serials == (1, 3)
    await completes(world)


async def test_all_members_are_lost_and_the_spares_go_on_from_the_newest_commit() -> None:
    world = await training(spares=2)
    await world.until_step(9)
    for uid in (world.agent(0).uid, world.agent(1).uid):
        world.pods.delete_with_grace(uid, 0)
    await world.tick()
    assert world.status().formation.serials == (3, 4)
    assert world.status().formation.resume.step == 8
    await world.until_phase("Complete", within_seconds=200)
    assert await world.rests()


async def test_a_leaving_member_hands_over_to_a_spare_at_once() -> None:
    world = await training()
    leaving = world.agent(1)
    world.pods.delete_with_grace(leaving.uid, 30)
    await world.tick()
    assert world.status().formation.serials == (1, 3)
    assert leaving.uid in world.pods.pods
    assert world.status().recoveries[-1].reason == "bot-0001-2 leaves; its replacement was ready first"
    await completes(world)
    assert world.status().restarts.disruptions == 1


async def test_whoever_is_ready_first_takes_the_place() -> None:
    world = await training()
    world.pods.delete_with_grace(world.live_pods()[-1], 0)
    await world.until(lambda: spares(world) == [4])
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.tick()
    assert (world.status().formation.is_over, spares(world)) == (True, [4]), "a replacement was created, because no spare was ready"
    await world.until(lambda: world.status().last_formation == 2)
    assert (world.status().formation.serials, spares(world)) == ((1, 4), [5]), "the spare was ready before it"
    await completes(world)


async def test_a_lost_spare_is_replaced_and_training_does_not_notice() -> None:
    world = await training()
    for _ in range(3):
        serial = spares(world)[0]
        world.pods.delete_with_grace(world.live_pods()[-1], 0)
        await world.until(lambda lost=serial: world.status().ready_spares == 1 and spares(world) == [lost + 1])
    assert (world.status().last_formation, world.status().restarts.total) == (1, 0)
    assert world.status().recoveries == ()
    assert world.reasons().count("SpareMissing") == 3
    await completes(world)


async def test_a_spare_that_cannot_prepare_comes_again_more_slowly_and_ends_nothing() -> None:
    world = World(total_steps=200)
    world.apply(spares=1)
    await world.until(lambda: world.status().ready_spares == 1)
    world.agents.prepare_failure = NO_MODEL
    world.pods.delete_with_grace(world.live_pods()[-1], 0)
    await world.tick(60)
    assert 3 <= world.reasons().count("SpareMissing") <= 6, "after 1, 2, 4, 8 s"
    assert (world.status().phase, world.status().restarts.total, world.status().last_formation) == ("Training", 0, 1)
    world.agents.prepare_failure = None
    await world.until(lambda: world.status().ready_spares == 1)
    assert world.status().lost_spares.count == 0


async def test_a_spare_that_quota_refuses_delays_no_replacement() -> None:
    world = World(total_steps=TOTAL)
    world.pods.quota = 2
    world.apply(spares=1)
    await world.until_step(3)
    assert world.status().phase == "Training"
    assert world.status().placement.why is None
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.until(lambda: world.status().last_formation == 2, within_seconds=3)
    assert world.status().formation.serials[0] == 1
    await completes(world)


async def test_spares_with_room_and_without_block_nobody() -> None:
    world = World(slots=3, total_steps=100)
    world.apply("first", spares=2)
    await world.until_step(3, "first")
    assert world.status("first").ready_spares == 1
    assert len(spares(world, "first")) == 2, "one has no node"
    assert await world.is_quiet()
    world.apply("second", nodes=(1, 1))
    await world.until_step(1, "second")
    assert world.status("first").ready_spares == 0, "the running one made way too"
    assert "SpareGivenBack" in world.reasons("first")
    assert world.status("first").phase == "Training"
    world.pods.slots = 5
    await world.until(lambda: world.status("first").ready_spares == 2)
    for name in ("first", "second"):
        await world.until_phase("Complete", name, within_seconds=200)
    assert await world.rests("first", "second")


async def test_a_spare_without_room_makes_way_for_a_replacement() -> None:
    world = World(slots=2, total_steps=TOTAL)
    world.apply(spares=1)
    await world.until_step(3)
    assert world.status().condition("Running").status == "True"
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.until(lambda: world.status().last_formation == 2)
    assert world.status().restarts.total == 1
    await completes(world)


async def test_a_suspended_job_frees_its_spares_too_and_gets_them_back() -> None:
    world = await training(spares=2)
    world.change_spec(suspend=True)
    await world.until_phase("Suspended")
    assert not world.live_pods()
    assert (world.status().members, world.status().ready_spares) == ((), 0)
    assert await world.is_quiet()
    world.change_spec(suspend=False)
    await world.until(lambda: world.status().ready_spares == 2)
    await completes(world)


async def test_spares_exit_when_the_job_fails() -> None:
    world = await training()
    world.agents.faults[12] = FailureReport(failure_class=FailureClass.USER_ERROR, message="row 7 is empty")
    await world.until_phase("Failed")
    assert await world.rests()
    assert world.status().members == ()


async def test_a_new_operator_keeps_the_spares() -> None:
    world = await training()
    world.stop_operator()
    await world.tick(2)
    world.restart_operator()
    await world.tick(6)
    assert world.made() == [f"bot-0001-{serial}" for serial in (1, 2, 3)]
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.tick()
    assert world.status().formation.serials == (1, 3)
    await completes(world)
