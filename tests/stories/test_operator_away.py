"""The operator dies, comes back, is slow, or meets others who write; nothing is made twice and nothing is forgotten."""

import pytest
from tests.stories.world import World

from finetune_contract.messages import MemberPhase

TOTAL = 20
TWO = ["bot-0001-1", "bot-0001-2"]


async def completes(world: World) -> None:
    await world.until_phase("Complete", within_seconds=120)
    assert await world.rests()


async def training(step: int = 5) -> World:
    world = World(total_steps=TOTAL)
    world.apply()
    await world.until_step(step)
    return world


@pytest.mark.parametrize("down_ticks", [0, 6])
async def test_an_operator_that_restarts_in_mid_run_disturbs_nothing(down_ticks) -> None:
    world = await training()
    world.stop_operator()
    await world.tick(down_ticks)
    world.restart_operator()
    await completes(world)
    assert world.status().last_formation == 1
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.made() == TWO


@pytest.mark.parametrize("writes", range(1, 8))
async def test_an_operator_that_dies_after_any_write_makes_no_second_pod(writes) -> None:
    world = World(total_steps=TOTAL)
    world.jobs.dies_after_writes = writes
    world.apply()
    await completes(world)
    assert world.term == 2, "it has died once"
    assert world.made() == TWO
    assert world.steps() == list(range(1, TOTAL + 1))


@pytest.mark.parametrize("creations", [1, 2])
async def test_an_operator_that_dies_after_a_creation_makes_no_second_pod(creations) -> None:
    world = World(total_steps=TOTAL)
    world.pods.dies_after_creations = creations
    world.apply()
    await completes(world)
    assert world.made() == TWO


async def test_an_operator_that_dies_before_its_orders_are_sent_sends_them_again() -> None:
    world = World(total_steps=TOTAL)
    world.agents.dies_before_orders = True
    world.apply()
    await completes(world)
    assert world.term == 2, "it has died once"
    assert world.status().last_formation == 1


@pytest.mark.parametrize("writes", range(1, 7))
async def test_an_operator_that_dies_during_a_recovery_finishes_it(writes) -> None:
    world = await training()
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    world.jobs.dies_after_writes = writes
    await completes(world)
    assert world.term == 2, "it has died once"
    assert world.made() == [*TWO, "bot-0001-3"]
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.status().restarts.total == 1


async def test_a_member_lost_while_the_operator_was_away_is_replaced_once_the_others_have_spoken() -> None:
    world = await training()
    world.stop_operator()
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.tick(6)
    world.restart_operator()
    world.agents.are_channels_up = False
    await world.tick(3)
    assert world.made() == TWO, "nothing is judged before agents had time to reconnect"
    world.agents.are_channels_up = True
    await world.tick(1)
    assert world.made() == [*TWO, "bot-0001-3"], "whoever lives has spoken: nobody is waited for"
    await completes(world)
    assert world.steps() == list(range(1, TOTAL + 1))


async def test_a_new_operator_that_hears_nobody_stops_nothing() -> None:
    world = await training()
    world.restart_operator()
    world.agents.are_channels_up = False
    await world.tick(10)
    assert world.status().last_formation == 1
    assert not world.status().formation.is_over
    world.agents.are_channels_up = True
    await completes(world)
    assert world.made() == TWO


async def test_a_creation_whose_answer_is_lost_makes_no_second_pod() -> None:
    world = World(total_steps=TOTAL)
    world.pods.lost_answers = 2
    world.apply()
    await completes(world)
    assert world.made() == TWO


async def test_a_stale_list_of_pods_makes_no_second_pod() -> None:
    world = World(total_steps=TOTAL)
    world.pods.is_stale = True
    world.apply()
    await world.tick(5)
    world.pods.is_stale = False
    await completes(world)
    assert world.made() == TWO


async def test_a_name_that_belongs_to_somebody_else_is_left_alone() -> None:
    world = World(total_steps=TOTAL)
    world.pods.foreign_names = {"bot-0001-1", "bot-0001-3"}
    world.apply()
    await completes(world)
    assert world.made() == ["bot-0001-2", "bot-0001-4"]


@pytest.mark.parametrize("conflicts", [1, 5])
async def test_a_write_that_meets_another_writer_is_decided_again(conflicts) -> None:
    world = World(total_steps=TOTAL)
    world.jobs.conflicts = conflicts
    world.apply()
    await world.until_step(3)
    world.jobs.conflicts = conflicts
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await completes(world)
    assert world.jobs.conflicts == 0
    assert world.made() == [*TWO, "bot-0001-3"]
    assert world.reasons().count("Admitted") == 1
    assert world.reasons().count("MemberLost") == 1


async def test_a_pass_that_met_another_writer_is_repeated_at_once() -> None:
    world = World()
    world.apply()
    world.jobs.conflicts = 1
    assert await world.reconciler.run_pass(("default", "bot")) == 0.0
    assert world.made() == [], "nothing follows from an intent that was not written"


async def test_a_job_that_is_gone_when_its_status_is_written_gets_no_pods() -> None:
    world = World()
    world.apply()
    world.jobs.stale[("default", "bot")] = world.job()
    world.delete_job()
    assert await world.reconciler.run_pass(("default", "bot")) is None
    assert world.pods.made == []
    assert world.jobs.events == []


async def test_a_gang_finishes_alone_while_the_operator_is_away() -> None:
    world = await training()
    world.stop_operator()
    await world.tick(60)
    assert not world.live_pods(), "they have ended by themselves"
    world.restart_operator()
    await completes(world)
    assert world.status().output.uri == "s3://out/adapter"
    assert world.made() == TWO


async def test_a_gang_that_exports_while_the_operator_restarts_is_not_disturbed() -> None:
    world = await training()
    await world.until(lambda: world.agent(0).phase is MemberPhase.EXPORTING)
    world.restart_operator()
    await completes(world)
    assert world.status().last_formation == 1


@pytest.mark.parametrize("is_up", [True, False], ids=["operator up", "operator away"])
async def test_a_deleted_job_leaves_nothing(is_up) -> None:
    world = await training()
    if not is_up:
        world.stop_operator()
    world.delete_job()
    await world.tick(2)
    world.restart_operator()
    await world.tick(4)
    assert world.pods.pods == {}
    assert await world.is_quiet()


async def test_a_job_of_the_same_name_starts_from_nothing() -> None:
    world = await training()
    world.delete_job()
    world.apply("other")
    world.apply()
    await completes(world)
    assert world.made()[2:] == ["bot-0002-1", "bot-0002-2"]
    assert world.steps() == list(range(1, TOTAL + 1))
