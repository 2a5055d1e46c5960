"""Members are told that they have to go: nothing is lost, and training pauses for one formation only."""

import asyncio

import pytest
from tests.builders.machine import slowness
from tests.faults.lives import LONG, NUM_STEPS, a_fault_document, judge, leave, live, manifests
from tests.faults.worker import Plan

from finetune_contract.commits import parse_manifest
from finetune_operator.reconcile.ports import Refused

MIDDLE = NUM_STEPS // 2
ONE_MEMBER = {"nodes": {"min": 1, "max": 1}}
FULL = "403 exceeded quota: no room for one more"


def long_document(tmp_path, inputs, **changes):
    return a_fault_document(tmp_path, inputs, training={"maxSteps": LONG}, **changes)


@pytest.mark.fault(4)
async def test_a_member_deleted_with_grace_trains_until_its_replacement_is_ready(undisturbed_of, inputs, tmp_path, figures):
    left = []

    async def disturb(scene):
        await scene.reach(20)
        left.append(scene.run.members[0])
        scene.strike()
        scene.run._members.end(left[0], grace_seconds=60)

    life = await live(tmp_path, long_document(tmp_path, inputs), disturb)
    judge(life, await undisturbed_of(LONG), figures, disruptions=1, max_lost_steps=0, is_warned=True)
    assert life.exit_codes[left[0].name] == 143
    assert life.tells("MemberLost", left[0].name, "told to end")
    assert life.status.recoveries[0].failure_class == "Disrupted"
    assert life.seconds_of_pause < 4 * slowness()


@pytest.mark.fault(4)
async def test_a_step_told_by_a_leaving_member_is_kept_by_those_who_go_on(undisturbed_of, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(20)
        scene.strike()
        scene.run._members.end(scene.run.members[0], grace_seconds=60)

    plan = Plan(what="late snapshots", rank=1, step=10)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs, training={"maxSteps": 2 * NUM_STEPS}), disturb, plan=plan)
    judge(life, await undisturbed_of(2 * NUM_STEPS), figures, disruptions=1, max_lost_steps=0, is_warned=True)


@pytest.mark.fault(7)
@pytest.mark.parametrize("grace_seconds", [5, 15])
async def test_a_notice_is_used_until_the_kill_that_follows_it(grace_seconds, undisturbed_of, inputs, tmp_path, figures):
    """5 s are too short for a replacement here, as 15 s are on a cluster that has to start a node; 15 s are enough."""
    victims = []

    async def disturb(scene):
        await scene.reach(20)
        victims.append(scene.run.members[1])
        step = scene.run.step
        scene.strike()
        scene.run._members.end(victims[0], grace_seconds=grace_seconds)
        await scene.until("a replacement", lambda run: run.status.last_serial == 3, deadline_seconds=grace_seconds - 2)
        await scene.until("a commit", lambda run: newest_committed(tmp_path) >= step, deadline_seconds=grace_seconds - 2)
        assert not victims[0].is_over

    document = long_document(tmp_path, inputs)
    document["spec"]["terminationGracePeriodSeconds"] = grace_seconds
    document["spec"]["checkpoint"]["minIntervalSeconds"] = 600
    life = await live(tmp_path, document, disturb)
    judge(life, await undisturbed_of(LONG), figures, disruptions=1, max_lost_steps=0, is_warned=True)
    assert life.exit_codes[victims[0].name] == 143


def newest_committed(folder):
    return max((parse_manifest(file.read_bytes()).state.step for file in manifests(folder)), default=0)


async def in_preparation(scene):
    await scene.until("two members", lambda run: len(run.members) == 2)
    return scene.run.members[0]


async def in_a_step(scene):
    await scene.reach(MIDDLE)
    return scene.run.members[0]


async def in_an_evaluation(scene):
    await scene.until("an evaluation", lambda run: run.status.phase == "Evaluating")
    return scene.run.members[1]


async def in_an_upload(scene):
    await scene.reach(MIDDLE)
    before = manifests(scene.folder)[-1:]
    await scene.until("the end of an upload", lambda _run: manifests(scene.folder)[-1:] != before)
    return scene.member_of_node_rank(0)


async def in_the_export(scene):
    await scene.until("the export", lambda run: run.status.phase in {"Exporting", "Complete"})
    return scene.run.members[0] if scene.run.members else None


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "moment", [in_preparation, in_a_step, in_an_evaluation, in_an_upload, in_the_export], ids=lambda moment: moment.__name__
)
async def test_a_member_told_to_end(moment, undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        member = await moment(scene)
        scene.strike()
        if member is not None:
            leave(member)

    uploads = {"minIntervalSeconds": 0}  # one after the other: the next has begun when one is complete
    life = await live(tmp_path, a_fault_document(tmp_path, inputs, checkpoint=uploads), disturb)
    counted = life.status.restarts
    judge(life, undisturbed, figures, disruptions=counted.disruptions, max_lost_steps=0, is_warned=True)
    assert counted.disruptions <= 1


@pytest.mark.fault(8)
async def test_the_only_member_told_to_end_hands_over_without_a_lost_step(undisturbed_of, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(20)
        scene.strike()
        leave(scene.run.members[0])

    life = await live(tmp_path, long_document(tmp_path, inputs, resources=ONE_MEMBER), disturb)
    judge(life, await undisturbed_of(LONG), figures, disruptions=1, max_lost_steps=0, is_warned=True)


@pytest.mark.fault(9)
async def test_with_no_room_for_a_replacement_the_gang_saves_parks_and_goes_on_later(undisturbed_of, inputs, tmp_path, figures):
    parked = []

    async def disturb(scene):
        await scene.reach(20)
        create = scene.run._members.create
        scene.run._members.create = refuse
        victim = scene.run.members[1]
        scene.strike()
        scene.run._members.end(victim, grace_seconds=8)
        await scene.until("the victim's end", lambda _run: victim.is_over)
        committed = newest_committed(tmp_path)
        await scene.until("the reason", lambda run: any(FULL in condition.message for condition in run.status.conditions))
        await asyncio.sleep(2)
        assert committed == scene.steps.read()[-1].number, "all that was trained was committed before the deadline"
        parked.append(scene.run.status.phase)
        scene.run._members.create = create

    async def refuse(_job, _serial, _decoration):
        return Refused(message=FULL)

    document = long_document(tmp_path, inputs)
    document["spec"]["terminationGracePeriodSeconds"] = 8
    document["spec"]["checkpoint"]["minIntervalSeconds"] = 600
    life = await live(tmp_path, document, disturb)
    judge(life, await undisturbed_of(LONG), figures, disruptions=1, max_lost_steps=0, is_warned=True)
    assert parked[0] not in {"Training", "Failed"}
