"""Processes die without warning: whatever dies, the adapter has the bytes of the undisturbed run."""

import asyncio
import os
import signal

import pytest
from tests.builders.machine import slowness
from tests.faults.lives import LONG, NUM_STEPS, a_fault_document, judge, live, manifests, tell

from finetune_operator.local.proc import processes_in

MIDDLE = NUM_STEPS // 2


@pytest.mark.fault(1)
@pytest.mark.fast
async def test_a_killed_worker_costs_one_formation_in_place(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        scene.kill_worker(1)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1)
    assert life.status.last_serial == 2
    assert life.status.recoveries[0].failure_class == "Infrastructure"
    assert life.tells("WorkerFailed", "rank", "SIGKILL")


@pytest.mark.fault(1)
async def test_all_workers_killed_at_once_resume_from_memory(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        scene.strike()
        for member in scene.run.members:
            scene.run.kill_worker(member)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1)
    assert life.status.last_serial == 2


@pytest.mark.fault(2)
async def test_a_killed_agent_is_replaced(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        scene.kill_member(1)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1)
    assert life.tells("MemberLost", "exit code 137")


@pytest.mark.fault(2)
async def test_with_a_spare_a_killed_agent_is_not_waited_for(undisturbed_of, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.until("a ready spare", lambda run: run.status.ready_spares == 1)
        await scene.reach(MIDDLE)
        scene.kill_member(1)

    document = a_fault_document(tmp_path, inputs, training={"maxSteps": LONG}, resources={"spares": 1})
    life = await live(tmp_path, document, disturb)
    judge(life, await undisturbed_of(LONG), figures, crashes=1)
    assert life.seconds_to_next_step < 4 * slowness()


@pytest.mark.fault(3)
async def test_the_loss_of_node_rank_0_is_like_any_other(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        first = scene.member_of_node_rank(0)
        scene.strike()
        scene.run.kill_member(first)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1)
    assert life.status.formation.serials[0] == 2, "the survivor holds the newest state"


@pytest.mark.fault(5)
async def test_a_member_deleted_without_grace_is_a_disruption(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        victim = scene.run.members[1]
        scene.strike()
        scene.run._members.end(victim, grace_seconds=0)
        for entry in processes_in(victim.folder):
            tell(entry.pid, signal.SIGKILL)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, disruptions=1)
    assert life.tells("MemberLost")
    assert life.status.recoveries[0].failure_class == "Disrupted"


@pytest.mark.fault(11)
async def test_when_all_members_are_killed_at_once_training_goes_on_from_the_newest_commit(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        await scene.until("a commit", lambda _run: manifests(tmp_path))
        scene.strike()
        for member in scene.run.members:
            scene.run.kill_member(member)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    # At most the steps between two uploads: 0.2 s apart at the least, and the newest may be on its way.
    judge(life, undisturbed, figures, crashes=1, max_lost_steps=MIDDLE - 1)
    assert life.status.recoveries[0].resumed_step > 0


@pytest.mark.fault(25)
async def test_an_agent_that_was_stopped_comes_back_and_harms_nothing(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        stale = scene.run.members[1].pid
        scene.strike()
        tell(stale, signal.SIGSTOP)
        await asyncio.sleep(8)
        tell(stale, signal.SIGCONT)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    counted = life.status.restarts
    judge(life, undisturbed, figures, crashes=counted.crashes, disruptions=counted.disruptions)
    assert counted.total <= 2, life.events


@pytest.mark.fault(15)
@pytest.mark.fast
async def test_a_worker_that_is_stopped_is_found_at_once(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        scene.strike()
        os.kill(scene.run.worker_pids(scene.run.members[1])[0], signal.SIGSTOP)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1)
    recovery = life.status.recoveries[0]
    assert (recovery.failure_class, recovery.member) == ("Hang", "tiny-" + recovery.member.split("-")[1] + "-2")
    assert "is stopped" in recovery.reason
    assert life.seconds_to_next_step < 5 * slowness()
