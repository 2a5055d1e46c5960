"""Faults of processes on the local run: whatever dies or stops, the adapter has the bytes of the undisturbed run.

Numbers in names are those of docs/faults.md.
"""

import asyncio
import signal
from random import Random
from zlib import crc32

import pytest
from tests.faults.lives import NUM_STEPS, a_fault_document, leave, live, lost_steps, manifests, reach, stop_for, tell

from finetune_contract.commits import CommitManifest
from finetune_operator.local.proc import processes_in

MIDDLE = NUM_STEPS // 2


async def fault_1_one_worker_is_killed(run):
    await reach(run, MIDDLE)
    run.kill_worker(run.members[1])


async def fault_1_every_worker_is_killed(run):
    await reach(run, MIDDLE)
    for member in run.members:
        run.kill_worker(member)


async def fault_2_an_agent_is_killed(run):
    await reach(run, MIDDLE)
    run.kill_member(run.members[1])


async def fault_3_the_member_with_node_rank_0_is_killed(run):
    await reach(run, MIDDLE)
    first = run.status.formation.serials[0]
    run.kill_member(next(member for member in run.members if member.serial == first))


async def fault_8_a_member_is_told_to_end_while_it_prepares(run):
    await run.wait_until("two members", lambda run: len(run.members) == 2, deadline_seconds=30)
    leave(run.members[0])


async def fault_8_a_member_is_told_to_end_in_a_step(run):
    await reach(run, MIDDLE)
    leave(run.members[0])


async def fault_8_a_member_is_told_to_end_in_an_evaluation(run):
    await run.wait_until("an evaluation", lambda run: run.status.phase == "Evaluating", deadline_seconds=60)
    leave(run.members[1])


async def fault_8_a_member_is_told_to_end_in_its_export(run):
    await run.wait_until("the export", lambda run: run.status.phase in {"Exporting", "Complete"}, deadline_seconds=90)
    for member in run.members[:1]:
        leave(member)


async def fault_25_an_agent_that_was_stopped_comes_back(run):
    await reach(run, MIDDLE)
    await stop_for(run.members[1].pid, 8)


async def fault_33_a_second_worker_is_killed_while_the_first_loss_is_repaired(run):
    await reach(run, MIDDLE)
    run.kill_worker(run.members[0])
    await run.wait_until("formation 2", lambda run: run.status.last_formation >= 2, deadline_seconds=30)
    await run.wait_until("its workers", lambda run: run.worker_pids(run.members[1]), deadline_seconds=30)
    run.kill_worker(run.members[1])


FAULTS = (
    fault_1_one_worker_is_killed,
    fault_1_every_worker_is_killed,
    fault_2_an_agent_is_killed,
    fault_3_the_member_with_node_rank_0_is_killed,
    fault_8_a_member_is_told_to_end_while_it_prepares,
    fault_8_a_member_is_told_to_end_in_a_step,
    fault_8_a_member_is_told_to_end_in_an_evaluation,
    fault_8_a_member_is_told_to_end_in_its_export,
    fault_25_an_agent_that_was_stopped_comes_back,
    fault_33_a_second_worker_is_killed_while_the_first_loss_is_repaired,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_adapter_has_the_bytes_of_the_undisturbed_run_after(fault, undisturbed, inputs, tmp_path):
    life = await live(tmp_path, a_fault_document(tmp_path, inputs), fault)
    assert life.status.is_true("Complete"), (life.status.conditions, life.events)
    assert life.adapter_sha256 == undisturbed.adapter_sha256
    assert life.sample_digest == undisturbed.sample_digest is not None
    assert lost_steps(life.status) <= 1, life.status.recoveries
    assert life.num_living == 0


async def test_2_with_a_spare_a_killed_agent_is_not_waited_for(inputs, tmp_path):
    async def an_agent_is_killed(run):
        await run.wait_until("a ready spare", lambda run: run.status.ready_spares == 1, deadline_seconds=60)
        await reach(run, MIDDLE)
        run.kill_member(run.members[1])

    # Long enough for the spare to be ready before the end.
    training = {"maxSteps": 6 * NUM_STEPS}
    document = a_fault_document(tmp_path, inputs, training=training, resources={"spares": 1})
    life = await live(tmp_path, document, an_agent_is_killed)
    assert life.status.is_true("Complete"), life.events
    assert life.status.recoveries[0].replace_seconds < 1, life.status.recoveries


async def test_11_when_all_members_are_killed_at_once_training_goes_on_from_the_newest_commit(undisturbed, inputs, tmp_path):
    async def all_are_killed(run):
        await reach(run, MIDDLE)
        await run.wait_until("a commit", lambda _run: manifests(tmp_path), deadline_seconds=30)
        for member in run.members:
            run.kill_member(member)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), all_are_killed)
    assert life.status.is_true("Complete"), life.events
    assert life.status.recoveries[0].resumed_step > 0
    assert life.adapter_sha256 == undisturbed.adapter_sha256


async def test_15_a_worker_that_is_stopped_is_found_and_replaced(undisturbed, inputs, tmp_path):
    async def a_worker_stops(run):
        await reach(run, MIDDLE)
        tell(run.worker_pids(run.members[1])[0], signal.SIGSTOP)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), a_worker_stops)
    assert life.status.is_true("Complete"), life.events
    assert life.adapter_sha256 == undisturbed.adapter_sha256
    assert life.status.recoveries[0].failure_class == "Hang"
    assert "is stopped" in life.status.recoveries[0].reason
    assert life.status.recoveries[0].total_seconds < 10


@pytest.mark.parametrize("harm", ["flipped bit", "truncated", "zeros", "missing"])
async def test_19_a_commit_that_does_not_verify_is_named_and_the_one_before_is_taken(harm, undisturbed, inputs, tmp_path):
    async def newest_is_spoiled_and_all_are_killed(run):
        await reach(run, MIDDLE)
        await run.wait_until("two commits", lambda _run: len(manifests(tmp_path)) >= 2, deadline_seconds=30)
        killed = run.members
        for member in killed:
            run.kill_member(member)
        # Their uploaders end with them; what replaces them has to import torch before it reads the store.
        await run.wait_until("their end", lambda _run: not any(processes_in(member.folder) for member in killed), deadline_seconds=10)
        spoil(newest_state(tmp_path), harm)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), newest_is_spoiled_and_all_are_killed)
    assert life.status.is_true("Complete"), life.events
    assert any(event.startswith("CommitSkipped") for event in life.events), life.events
    assert life.adapter_sha256 == undisturbed.adapter_sha256


def newest_state(folder):
    manifest = manifests(folder)[-1]
    return manifest.parents[1] / "state" / f"{manifest.stem}.bin"


def spoil(file, harm):
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
        return
    if harm == "flipped bit":
        data[len(data) // 2] ^= 1
    elif harm == "zeros":
        data[:] = bytes(len(data))
    else:
        del data[len(data) // 2 :]
    file.write_bytes(data)


async def test_20_an_agent_that_is_killed_at_any_moment_of_an_upload_leaves_only_commits_that_verify(undisturbed, inputs, tmp_path):
    offsets, num_checked = Random(20), 0

    async def kill_during_uploads(run):
        nonlocal num_checked
        for step in (10, 25, 40):
            await reach(run, step)
            await asyncio.sleep(offsets.uniform(0, 0.3))
            first = run.status.formation.serials[0]
            run.kill_member(next(member for member in run.members if member.serial == first))
            num_checked += check_commits(tmp_path)

    document = a_fault_document(tmp_path, inputs, checkpoint={"minIntervalSeconds": 0})
    life = await live(tmp_path, document, kill_during_uploads)
    assert num_checked > 0
    assert life.status.is_true("Complete"), life.events
    assert life.adapter_sha256 == undisturbed.adapter_sha256


def check_commits(folder):
    found = 0
    for file in manifests(folder):
        try:
            manifest = CommitManifest.model_validate_json(file.read_text())
            state = (file.parents[1] / "state" / f"{file.stem}.bin").read_bytes()
        except FileNotFoundError:  # pruned between the listing and the reading
            continue
        assert (len(state), crc32(state)) == (manifest.num_bytes, manifest.crc32)
        found += 1
    return found
