"""Workers that hang: found by the beat within 5 s at this pace, with the stacks of all ranks in the logs and the culprit named."""

import pytest
from tests.builders.machine import slowness
from tests.faults.lives import NUM_STEPS, a_fault_document, judge, live
from tests.faults.steps import Strike
from tests.faults.worker import Plan

MIDDLE = NUM_STEPS // 2
DETECTED_SECONDS = 5.0
LOOK_SECONDS = 1.0  # a tick of the agent, and the second that workers get to write their stacks


@pytest.mark.fault(15)
@pytest.mark.parametrize("what", ["deadlock", "held interpreter"])
@pytest.mark.parametrize("rank", [0, 1])
async def test_a_hang_is_found_in_time_and_its_culprit_named(what, rank, undisturbed, inputs, tmp_path, figures):
    async def disturb(scene):
        await scene.until("the harm", lambda _run: harmed_file(tmp_path).exists())
        scene.strikes.append(Strike(at=float(harmed_file(tmp_path).read_text()), formation=1))

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb, plan=Plan(what=what, rank=rank, step=MIDDLE))
    judge(life, undisturbed, figures, crashes=1)
    recovery = life.status.recoveries[0]
    assert recovery.failure_class == "Hang"
    assert f"rank {rank} hangs" in recovery.reason
    assert life.seconds_to_next_step < (DETECTED_SECONDS + LOOK_SECONDS + 3) * slowness()
    logs = [file.read_text() for file in sorted((tmp_path / "work" / "logs").iterdir())]
    assert ["Current thread" in log or "most recent call first" in log for log in logs] == [True, True]
    culprit = next(log for log in logs if recovery.member in log)
    assert ("deadlock" if what == "deadlock" else "hold_the_interpreter") in culprit


def harmed_file(folder):
    return folder / "steps.harmed"


@pytest.mark.fault(14)
async def test_a_slow_rank_is_named_and_training_goes_on(undisturbed_of, inputs, tmp_path, figures):
    named = []

    async def disturb(scene):
        await scene.until("the harm", lambda _run: harmed_file(tmp_path).exists())
        scene.strike(is_warned=True)
        named.append(await scene.until("a straggler", lambda run: run.status.progress.straggler))

    document = a_fault_document(tmp_path, inputs, training={"maxSteps": 2 * NUM_STEPS})
    life = await live(tmp_path, document, disturb, plan=Plan(what="slowness", rank=1, step=20))
    judge(life, await undisturbed_of(2 * NUM_STEPS), figures, max_lost_steps=0, is_warned=True)
    assert (named[0].rank, named[0].member.rpartition("-")[2]) == (1, "2")
    assert named[0].step_share > 0.5
    assert life.status.last_formation == 1
    assert any("slows" in event for event in life.events), life.events
