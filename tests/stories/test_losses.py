"""A job that trains loses something, and goes on from where it was."""

from datetime import timedelta

import pytest
from tests.stories.world import World

from finetune_contract.failures import FailureClass, FailureReport
from finetune_operator.api.spec import NodesSpec

KILLED = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="killed by SIGKILL", rank=1, signal="SIGKILL")
TOTAL = 20


async def training(step: int = 5, *, slots: int = 100, total_steps: int = TOTAL, **spec) -> World:
    world = World(slots=slots, total_steps=total_steps)
    world.apply(**spec)
    await world.until_step(step)
    return world


async def completes(world: World, *, within_seconds: float = 120) -> None:
    await world.until_phase("Complete", within_seconds=within_seconds)
    assert await world.rests()


@pytest.mark.parametrize("node_rank", [0, 1])
async def test_a_pod_vanishes_and_no_step_is_lost(node_rank) -> None:
    world = await training()
    world.pods.delete_with_grace(world.agent(node_rank).uid, 0)
    await completes(world)
    status = world.status()
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.made() == ["bot-0001-1", "bot-0001-2", "bot-0001-3"]
    assert (status.last_formation, status.restarts.disruptions, status.restarts.crashes) == (2, 1, 0)
    assert status.recoveries[-1].total_seconds is not None
    assert status.recoveries[-1].lost_steps == 0


async def test_both_pods_vanish_and_training_goes_on_from_the_newest_commit() -> None:
    world = await training(step=5)
    for uid in world.live_pods():
        world.pods.delete_with_grace(uid, 0)
    await completes(world)
    assert world.steps() == [1, 2, 3, 4, 5, *range(5, TOTAL + 1)], "step 5 was not committed yet"
    assert world.made() == [f"bot-0001-{serial}" for serial in (1, 2, 3, 4)]
    assert world.status().recoveries[-1].lost_steps == 1


async def test_pods_vanish_again_and_again() -> None:
    world = await training()
    for step in (7, 9, 11, 13):
        world.pods.delete_with_grace(world.agent(step % 2).uid, 0)
        await world.until_step(step)
    await completes(world)
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.status().restarts.total == 4


async def test_a_worker_is_killed_and_the_same_members_go_on() -> None:
    world = await training()
    world.agents.fail(world.agent(1), KILLED)
    await completes(world)
    status = world.status()
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.made() == ["bot-0001-1", "bot-0001-2"], "a crash of a worker costs no pod"
    assert (status.restarts.crashes, status.restarts.crashes_without_progress, status.restarts.disruptions) == (1, 0, 0)
    assert "WorkerFailed" in world.reasons()
    assert status.recoveries[-1].reason == "rank 1 on bot-0001-2: killed by SIGKILL"


async def test_an_agent_that_crashes_is_replaced_and_counted_once() -> None:
    world = await training()
    world.pods.end(world.agent(1).uid, 1)
    await completes(world)
    assert (world.status().restarts.crashes, world.status().restarts.disruptions) == (1, 0)
    assert world.steps() == list(range(1, TOTAL + 1))


async def test_a_replacement_is_ready_before_the_leaving_member_goes() -> None:
    world = await training()
    leaving = world.agent(1)
    world.pods.delete_with_grace(leaving.uid, 30)
    trained_before = len(world.steps())
    await world.until(lambda: world.status().last_formation == 2)
    assert leaving.uid in world.pods.pods, "it was still there when the next formation began"
    assert len(world.steps()) > trained_before, "training went on meanwhile"
    assert world.status().formation.serials == (1, 3)
    await completes(world)
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.status().restarts.disruptions == 1


async def test_a_gang_parks_when_the_deadline_comes_before_a_replacement() -> None:
    world = await training(slots=2, total_steps=100)
    leaving = world.agent(1)
    world.pods.delete_with_grace(leaving.uid, 10)
    await world.until(lambda: world.status().formation.is_over)
    assert (leaving.ends_at - world.clock.now()).total_seconds() >= 1.5, "in time before it ends"
    await world.until(lambda: world.status().last_formation == 2)
    assert world.status().formation.serials == (1, 3)
    await completes(world)
    assert world.steps() == list(range(1, 101))


async def test_a_replacement_that_quota_refuses_comes_when_the_leaving_member_is_gone() -> None:
    world = await training(total_steps=100)
    world.pods.quota = 2
    world.pods.delete_with_grace(world.agent(1).uid, 10)
    await world.tick(2)
    assert world.status().columns.reason == "Refused"
    await completes(world)
    assert world.steps() == list(range(1, 101))
    assert world.status().placement.why is None


@pytest.mark.parametrize("who", ["all", "node rank 0", "node rank 1"])
async def test_a_lost_channel_alone_never_stops_training(who) -> None:
    world = await training(total_steps=60)
    if who == "all":
        world.agents.are_channels_up = False
    else:
        world.agent(int(who[-1])).is_mute = True
    await world.tick(40)
    assert world.status().last_formation == 1
    assert world.steps() == list(range(1, 46)), "every tick made its step"
    world.agents.are_channels_up = True
    for agent in world.agents.agents.values():
        agent.is_mute = False
    await completes(world)
    assert world.status().restarts.total == 0
    assert world.made() == ["bot-0001-1", "bot-0001-2"]


@pytest.mark.parametrize("node_rank", [0, 1])
async def test_a_member_that_no_peer_reaches_for_3_s_is_given_up(node_rank) -> None:
    world = await training()
    lost = world.agent(node_rank)
    lost.is_cut_off = True
    await world.tick(6)
    assert not world.status().formation.is_over, "not before 3 s are over"
    await world.until(lambda: world.status().formation.is_over, within_seconds=3)
    await completes(world)
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.status().recoveries[-1].reason.endswith("neither the operator nor any of its peers can reach it")
    assert world.status().restarts.disruptions == 1


async def test_a_member_that_comes_back_in_time_is_kept() -> None:
    world = await training()
    lost = world.agent(1)
    lost.is_cut_off = True
    await world.tick(5)
    lost.is_cut_off = False
    await completes(world)
    assert world.status().last_formation == 1
    assert world.made() == ["bot-0001-1", "bot-0001-2"]


async def test_an_elastic_gang_starts_smaller_and_grows_when_there_is_room() -> None:
    world = World(slots=1, total_steps=200)
    world.apply(nodes=(1, 2))
    await world.until_step(5)
    assert world.status().formation.serials == (1,)
    assert world.status().columns.nodes == "1/2"
    world.pods.slots = 2
    await world.until(lambda: world.status().formation.serials == (1, 2))
    await completes(world)
    assert world.steps() == list(range(1, 201))
    assert world.status().restarts.total == 0


async def test_an_elastic_gang_goes_on_smaller_when_a_replacement_takes_too_long() -> None:
    world = World(slots=2, total_steps=100)
    world.apply(nodes=(1, 2))
    await world.until_step(5)
    world.pods.slots = 1
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.until(lambda: world.status().last_formation == 2, within_seconds=35)
    assert world.status().formation.serials == (1,)
    assert world.clock.now() - world.status().recoveries[0].at >= timedelta(seconds=29)
    world.pods.slots = 2
    await world.until(lambda: world.status().formation.serials == (1, 3))
    await completes(world)
    assert world.steps() == list(range(1, 101))
    assert world.status().restarts.total == 1, "growing is no restart"


async def test_a_gang_follows_a_change_of_its_size_at_a_step_boundary() -> None:
    world = await training(total_steps=200)
    for size in (3, 1, 2):
        world.change_spec(resources=world.job().spec.resources.model_copy(update={"nodes": NodesSpec(min=1, max=size)}))
        await world.until(lambda size=size: len(world.status().formation.serials) == size and len(world.live_pods()) == size)
    await completes(world)
    assert world.steps() == list(range(1, 201))
    assert (world.status().restarts.total, world.status().recoveries) == (0, ())


async def test_a_member_killed_for_memory_costs_a_smaller_micro_batch() -> None:
    world = await training(training={"max_sequence_length": 2048})
    world.pods.end(world.agent(1).uid, 137, is_oom_killed=True)
    await completes(world)
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.status().pinned.overrides.pack_tokens == 1024


async def test_a_member_that_ends_without_a_word_is_replaced_more_slowly_every_time() -> None:
    world = World()
    world.pods.dies_at_birth = True
    world.apply(nodes=(1, 1))
    await world.tick(60)
    assert len(world.made()) == 5, "after 1, 2, 4, 8 and 16 s"
    assert world.status().columns.reason == "MembersEndSilently"
    world.pods.dies_at_birth = False
    await completes(world)
