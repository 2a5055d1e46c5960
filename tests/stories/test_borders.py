"""Others act on what is ours: strangers with our labels, two leaders, a lease that was deleted, a job that cannot be read."""

from dataclasses import replace

import pytest
from tests.stories.fake_pods import Pod
from tests.stories.world import World

from finetune_contract.messages import MemberPhase
from finetune_operator.decide.facts.observed import PodPhase, PodView

TOTAL = 20
TWO = ["bot-0001-1", "bot-0001-2"]


def intrude(world: World, serial: int, *, name: str = "trojan", phase: PodPhase = PodPhase.RUNNING) -> str:
    """A pod that the job controls and never asked for; its agent connects and says what it likes."""
    uid = f"evil-{serial}-{name}"
    view = PodView(serial=serial, uid=uid, name=name, phase=phase, created_at=world.clock.now(), node="node-1")
    world.pods.pods[uid] = Pod(job_uid=world.job().metadata.uid, view=view, seen=view, is_stranger=True)
    return uid


@pytest.mark.parametrize("serial", [1, 2, 3, 99])
async def test_a_stranger_never_takes_part_and_is_removed(serial) -> None:
    world = World(total_steps=TOTAL)
    world.apply()
    uid = intrude(world, serial)
    await world.until_step(3)
    assert uid not in {entry.uid for entry in world.status().members}
    assert uid not in world.status().formation.uids
    assert all(uid not in {peer.member_uid for peer in agent.start.peers} for agent in world.agents.agents.values() if agent.start)
    await world.until_phase("Complete", within_seconds=120)
    assert world.made() == TWO
    assert uid not in world.pods.pods or world.pods.pods[uid].view.is_deleting


async def test_a_twin_of_a_lost_member_does_not_fill_its_rank() -> None:
    world = World(total_steps=TOTAL)
    world.apply()
    await world.until_step(5)
    lost = world.agent(1).uid
    world.pods.delete_with_grace(lost, 0)
    twin = intrude(world, 2, name="bot-0001-2")
    await world.until_phase("Complete", within_seconds=120)
    assert world.made() == [*TWO, "bot-0001-3"]
    assert twin not in world.status().formation.uids
    assert world.steps() == list(range(1, TOTAL + 1))


@pytest.mark.parametrize("creations", [1, 2])
@pytest.mark.parametrize("serial", [1, 2])
async def test_after_an_end_between_creation_and_note_the_right_pod_is_adopted(creations, serial) -> None:
    world = World(total_steps=TOTAL)
    world.pods.dies_after_creations = creations
    world.apply()
    uid = intrude(world, serial)
    await world.until_phase("Complete", within_seconds=120)
    assert world.made() == TWO
    assert uid not in world.status().formation.uids


async def test_two_operators_that_both_believe_to_lead_make_no_second_pod_and_no_second_formation() -> None:
    world = World(total_steps=TOTAL)
    world.apply()
    older = world.reconciler
    world.start_operator()
    newer = world.reconciler
    for turn in range(60):
        world.reconciler = older if turn % 3 == 0 else newer
        await world.tick()
    world.reconciler = newer
    await world.until_phase("Complete", within_seconds=120)
    assert world.made() == TWO
    assert world.status().last_formation == 1
    assert world.steps() == list(range(1, TOTAL + 1))


async def test_terms_that_fell_with_a_deleted_lease_are_learnt_from_the_agents() -> None:
    world = World(total_steps=TOTAL)
    world.term = 40
    world.start_operator()
    world.apply()
    await world.until_step(3)
    world.term = 2
    world.restart_operator()
    await world.tick(6)
    world.reconciler.confirm(0.0)
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.until_phase("Complete", within_seconds=120)
    assert world.status().last_formation == 2
    assert {agent.term for agent in world.agents.agents.values()} <= {42}


async def test_a_leader_that_was_replaced_learns_no_term_of_its_successor() -> None:
    world = World(total_steps=TOTAL)
    world.term = 40
    world.start_operator()
    world.apply()
    await world.until_step(3)
    world.term = 2
    world.restart_operator()
    await world.tick(4)
    survivor = world.agent(0)
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await world.tick(20)
    assert survivor.term == 41, "its orders are refused"


async def test_members_of_a_job_that_cannot_be_read_for_a_while_train_on() -> None:
    world = World(total_steps=TOTAL)
    world.apply()
    await world.until_step(5)
    key = ("default", "bot")
    world.jobs.unreadable.add(key)
    writes, before = world.jobs.num_writes, list(world.live_pods())
    await world.tick(6)
    assert (world.jobs.num_writes, world.live_pods()) == (writes, before)
    assert world.agent(0).phase is MemberPhase.TRAINING
    world.jobs.unreadable.clear()
    await world.until_phase("Complete", within_seconds=120)
    assert world.status().last_formation == 1
    assert world.made() == TWO


async def test_a_job_that_cannot_be_read_stands_in_nobodys_way() -> None:
    world = World(slots=2, total_steps=6)
    world.apply("first")
    world.apply("second")
    await world.tick(2)
    world.jobs.unreadable.add(("default", "first"))
    for pod in list(world.pods.pods.values()):
        pod.view = replace(pod.view, unschedulable=None)
    await world.tick()
    assert all(entry.key != ("default", "first") for entry in world.reconciler._line.ordered())


async def test_a_job_that_is_made_again_under_its_name_at_once_gets_members_of_its_own() -> None:
    world = World(total_steps=TOTAL)
    world.apply()
    await world.until_step(3)
    old = set(world.live_pods())
    job = world.job()
    metadata = job.metadata.model_copy(update={"uid": "9999-bot", "resource_version": "1", "generation": 1})
    world.jobs.jobs[job.key] = job.model_copy(update={"metadata": metadata, "status": type(job.status)()})
    await world.until_phase("Complete", within_seconds=120)
    assert not old & set(world.status().formation.uids)
    assert world.made() == [*TWO, "bot-9999-1", "bot-9999-2"]
