"""Whole lives with real processes and the real trainer: what is lost on the way changes no byte of the adapter."""

from tests.agent.wandb_files import history, run_ids
from tests.builders.machine import HANG_SECONDS
from tests.local.runs import NUM_STEPS, a_run, adapter_sha256, reasons

from finetune_operator.local.proc import processes_in


async def test_a_run_with_two_members_completes_and_its_loss_falls(undisturbed):
    status, sha256 = undisturbed
    assert status.is_true("Complete"), status.conditions
    assert status.progress.step == status.progress.total_steps == NUM_STEPS
    assert status.progress.loss < status.progress.first_loss
    assert (status.restarts.total, status.output.sha256) == (0, sha256)


async def test_a_killed_worker_is_resumed_from_memory_and_changes_no_byte(undisturbed, document, tmp_path):
    async with a_run(tmp_path, document()) as run:
        await run.wait_until("half way", lambda run: run.step >= NUM_STEPS // 2, deadline_seconds=HANG_SECONDS)
        killed_at = run.step
        run.kill_worker(run.members[1])
        status = await run.wait_end(deadline_seconds=HANG_SECONDS)
    assert status.is_true("Complete"), status.conditions
    assert status.restarts.crashes == 1, status.recoveries
    assert status.recoveries[0].resumed_step >= killed_at
    assert adapter_sha256(tmp_path) == undisturbed[1]


async def test_a_killed_member_is_replaced_and_changes_no_byte_and_a_tracker_sees_one_run(undisturbed, document, tmp_path):
    """The lost one has rank 0: its tracker dies with it, another member's goes on."""
    async with a_run(tmp_path, document(tracking={"reportTo": ["wandb"]}), WANDB_MODE="offline") as run:
        await run.wait_until("half way", lambda run: run.step >= NUM_STEPS // 2, deadline_seconds=HANG_SECONDS)
        lost = run.members[0]
        run.kill_member(lost)
        status = await run.wait_end(deadline_seconds=HANG_SECONDS)
    assert status.is_true("Complete"), status.conditions
    assert "MemberLost" in reasons(run)
    assert status.last_serial == 3
    assert status.recoveries[0].resumed_step >= NUM_STEPS // 2 - 1
    assert adapter_sha256(tmp_path) == undisturbed[1]
    assert processes_in(run.folders.members) == ()
    told = [row["_step"] for row in history(run.folders.tracking)]
    assert (len(told), max(told)) == (len(set(told)), NUM_STEPS)
    assert run_ids(run.folders.tracking) == {run.job.metadata.uid}


async def test_a_llama_completes(document, tmp_path):
    changes = {"training": {"maxSteps": 4}, "resources": {"nodes": {"min": 1, "max": 1}}}
    async with a_run(tmp_path, document(model="llama", **changes)) as run:
        status = await run.wait_end(deadline_seconds=HANG_SECONDS)
    assert status.is_true("Complete"), status.conditions
    assert status.output.sha256 == adapter_sha256(tmp_path)
