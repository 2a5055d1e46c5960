"""Devices that run out of memory or break, and numbers that are not finite: one remedy after the other, then an end with advice."""

import pytest
from tests.faults.lives import NUM_STEPS, a_fault_document, judge, live
from tests.faults.steps import Strike
from tests.faults.worker import Plan

MIDDLE = NUM_STEPS // 2


def harm(tmp_path):
    """Wait for the worker to do what its plan says."""

    async def disturb(scene):
        file = tmp_path / "steps.harmed"
        await scene.until("the harm", lambda run: file.exists() or run.status.is_ended)
        if file.exists():
            scene.strikes.append(Strike(at=float(file.read_text().split()[0]), formation=1))

    return disturb


@pytest.mark.fault(17)
async def test_a_device_out_of_memory_gets_checkpointing_then_half_the_micro_batch(inputs, tmp_path, figures):
    plan = Plan(what="device memory", rank=1, step=MIDDLE, times=None)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm(tmp_path), plan=plan)
    # Half the micro-batch is a declared change of the numbers: other bytes are right.
    figures.tell(seconds=life.seconds_to_next_step, lost_steps=life.lost_steps, same_bytes=None)
    assert life.status.is_true("Complete"), life.events
    overrides = life.status.pinned.overrides
    assert (overrides.gradient_checkpointing, overrides.pack_tokens) == (True, 64)
    assert [recovery.failure_class for recovery in life.status.recoveries] == ["OutOfMemory", "OutOfMemory"]
    assert life.lost_steps <= 1
    assert life.status.restarts.crashes == 2


@pytest.mark.fault(17)
async def test_checkpointing_alone_changes_no_byte(undisturbed, inputs, tmp_path, figures):
    plan = Plan(what="device memory", rank=1, step=MIDDLE)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm(tmp_path), plan=plan)
    judge(life, undisturbed, figures, crashes=1)
    assert life.status.pinned.overrides.gradient_checkpointing is True


@pytest.mark.fault(17)
async def test_a_device_that_is_too_small_ends_the_job_with_advice(inputs, tmp_path, figures):
    plan = Plan(what="too little device memory", rank=1, step=5, times=None)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm(tmp_path), plan=plan)
    figures.tell(seconds=None, lost_steps=life.lost_steps, same_bytes=None)
    failed = life.status.condition("Failed")
    assert failed.reason == "OutOfMemory"
    assert "lower training.maxSequenceLength" in failed.message
    assert life.num_living == 0


@pytest.mark.fault(17)
async def test_a_broken_device_costs_a_new_process(undisturbed, inputs, tmp_path, figures):
    plan = Plan(what="broken device", rank=1, step=MIDDLE)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm(tmp_path), plan=plan)
    judge(life, undisturbed, figures, crashes=1)
    assert life.tells("WorkerFailed", "rank 1", "illegal memory access")


@pytest.mark.fault(17)
async def test_a_device_that_breaks_twice_costs_a_new_member(undisturbed, inputs, tmp_path, figures):
    plan = Plan(what="broken device", serial=2, step=MIDDLE, times=2)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm(tmp_path), plan=plan)
    judge(life, undisturbed, figures, crashes=2)
    assert life.status.last_serial == 3
    assert life.tells("MemberLost", "its device failed in 2 formations in a row")


@pytest.mark.fault(18)
async def test_a_loss_that_was_not_finite_once_is_replayed(undisturbed, inputs, tmp_path, figures):
    plan = Plan(what="not finite", rank=1, step=MIDDLE)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm_unseen(), plan=plan)
    judge(life, undisturbed, figures, crashes=1, max_lost_steps=0)
    assert life.status.recoveries[0].failure_class == "NotFinite"
    assert life.tells("WorkerFailed", "NotFinite", f"step {MIDDLE}")
    assert life.tells("SuspectHardware")


@pytest.mark.fault(18)
async def test_a_loss_that_is_never_finite_ends_the_job_with_step_and_rows(inputs, tmp_path, figures):
    plan = Plan(what="not finite", rank=1, step=MIDDLE, times=None)
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), harm_unseen(), plan=plan)
    figures.tell(seconds=None, lost_steps=life.lost_steps, same_bytes=None)
    failed = life.status.condition("Failed")
    assert failed.reason == "NotFinite"
    assert f"step {MIDDLE}" in failed.message
    assert "rows" in failed.message
    assert max(step.number for step in life.steps.read()) == MIDDLE - 1, "no step was made of it"


def harm_unseen():
    async def disturb(scene):
        await scene.reach(MIDDLE - 10)
        scene.strike()

    return disturb
