"""Something more happens while a loss is repaired: formations advance, users are obeyed, and sizes change no byte."""

import asyncio
import signal

import pytest
from tests.builders.machine import HANG_SECONDS
from tests.faults.lives import NUM_STEPS, a_fault_document, judge, live, manifests, tell
from tests.local.runs import a_run

from finetune_operator.local.proc import processes_in

MIDDLE = NUM_STEPS // 2


async def while_it_stops(_scene):
    """At once: the agents have not even answered."""


async def while_a_member_is_replaced(scene):
    await scene.until("a new member", lambda run: run.status.last_serial == 3)


async def while_the_new_member_prepares(scene):
    await scene.until("a new process", lambda run: any(member.serial == 3 and processes_in(member.folder) for member in run.members))
    await asyncio.sleep(1)


async def while_the_next_formation_starts(scene):
    await scene.until_formation(2)


async def while_it_makes_its_first_step(scene):
    await scene.until_formation(2)
    await scene.until("its workers", lambda run: all(run.worker_pids(member) for member in run.members))
    await asyncio.sleep(0.2)


PHASES = (
    while_it_stops,
    while_a_member_is_replaced,
    while_the_new_member_prepares,
    while_the_next_formation_starts,
    while_it_makes_its_first_step,
)


@pytest.mark.fault(33)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
async def test_a_second_member_is_killed(phase, undisturbed, inputs, tmp_path, figures):
    """The survivor, so that the newest commit is what is left; while the new member prepares, the new one."""

    async def disturb(scene):
        await scene.reach(MIDDLE)
        scene.kill_member(0)
        await phase(scene)
        second = next(member for member in scene.run.members if member.serial == (3 if phase is while_the_new_member_prepares else 2))
        scene.strike()
        scene.run.kill_member(second)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    counted = life.status.restarts
    # Both members may be gone before either is replaced: then the newest commit is what is left.
    judge(life, undisturbed, figures, crashes=counted.crashes, max_lost_steps=MIDDLE)
    assert 1 <= counted.crashes <= 3
    assert life.status.last_formation <= 4, life.events


@pytest.mark.fault(33)
async def test_a_second_worker_is_killed_as_soon_as_it_is_forked(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.reach(MIDDLE)
        first = scene.run.worker_pids(scene.run.members[1])
        scene.kill_worker(0)
        await scene.until_formation(2)
        pids = await scene.until("its workers", lambda run: set(run.worker_pids(run.members[1])) - set(first))
        scene.strike()
        tell(pids.pop(), signal.SIGKILL)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=2)


async def recovering(scene):
    await scene.reach(MIDDLE)
    scene.kill_member(1)
    await scene.until("a new member", lambda run: run.status.last_serial == 3)


@pytest.mark.fault(29)
async def test_a_job_suspended_in_mid_recovery_saves_and_goes_on_where_it_was(undisturbed, inputs, tmp_path, figures):
    kept = []

    async def disturb(scene):
        await recovering(scene)
        scene.run.suspend()
        await scene.until("suspension", lambda run: run.status.phase == "Suspended" and not run.members)
        kept.append(max(int(file.stem.rpartition("-")[2]) for file in manifests(tmp_path)))
        assert kept[0] == max(step.number for step in scene.steps.read())
        change(scene.run, suspend=False)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    counted = life.status.restarts
    judge(life, undisturbed, figures, crashes=counted.crashes, disruptions=counted.disruptions, max_lost_steps=0)
    assert counted.total == 1
    assert life.tells("Resumed", f"from step {kept[0]}")


@pytest.mark.fault(29)
async def test_a_job_deleted_in_mid_recovery_leaves_nothing(inputs, tmp_path, figures):
    document = a_fault_document(tmp_path, inputs)
    async with a_run(tmp_path, document) as run:
        await run.wait_until("half way", lambda run: run.step >= MIDDLE, deadline_seconds=HANG_SECONDS)
        run.kill_member(run.members[1])
        await run.wait_until("a new member", lambda run: run.status.last_serial == 3, deadline_seconds=HANG_SECONDS)
        key = run.job.key
        del run._jobs._jobs[key]
        run._reconciler.wake(key)
        await until_nothing_lives(run.folders.members)
    figures.tell(seconds=None, lost_steps=None, same_bytes=None)
    assert not any(event.reason == "Failed" for event in run.events)


@pytest.mark.fault(29)
async def test_a_job_edited_in_mid_recovery_ends_with_the_same_bytes(undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await recovering(scene)
        checkpoint = scene.run.job.spec.checkpoint.model_copy(update={"keep": 4})
        change(scene.run, checkpoint=checkpoint, ttl_seconds_after_finished=3600)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1)


async def until_nothing_lives(folder, deadline_seconds=HANG_SECONDS):
    for _ in range(10 * deadline_seconds):
        if not processes_in(folder):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(processes_in(folder))


def change(run, **changes):
    """As a user who edits the spec."""
    job = run.job
    metadata = job.metadata.model_copy(update={"generation": job.metadata.generation + 1})
    run._jobs.submit(job.model_copy(update={"metadata": metadata, "spec": job.spec.model_copy(update=changes)}))
    run._look_again()


def scale(run, num_nodes):
    resources = run.job.spec.resources
    nodes = resources.nodes.model_copy(update={"min": 1, "max": num_nodes})
    change(run, resources=resources.model_copy(update={"nodes": nodes}))


@pytest.mark.fault(31)
async def test_formations_of_2_1_3_and_2_members_give_the_bytes_of_2(undisturbed_of, inputs, tmp_path, figures):
    async def disturb(scene):
        for step, num_nodes in ((20, 1), (60, 3), (100, 2)):
            await scene.reach(step)
            scene.strike()
            scale(scene.run, num_nodes)
            await scene.until(
                f"a formation of {num_nodes}",
                lambda run, wanted=num_nodes: (
                    len(run.status.formation.serials) == wanted and run.status.formation.first_step_at is not None
                ),
            )

    document = a_fault_document(tmp_path, inputs, training={"maxSteps": 400}, resources={"nodes": {"min": 1, "max": 2}})
    life = await live(tmp_path, document, disturb)
    judge(life, await undisturbed_of(400), figures, max_lost_steps=0, is_warned=True)
