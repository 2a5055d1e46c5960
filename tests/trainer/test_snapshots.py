"""Snapshots are written beside the next step: a step is safe before it is reported, nothing goes wrong unseen, a kill harms nothing."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from tests.builders.machine import HANG_SECONDS
from tests.trainer.formations import a_config, an_order

from finetune_contract.run_order import RunOrder
from finetune_contract.slots import SlotFile
from finetune_contract.state import InputDigests, NumericsKey, RunRecord, StateId
from finetune_trainer.optimise import FlatState
from finetune_trainer.ranks import Ranks
from finetune_trainer.snapshots import Snapshots

ALONE = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, node_rank=0)
NUM_WEIGHTS = 200_000  # much smaller states are written at once


def a_record(step: int, **changes) -> RunRecord:
    fields = {
        "step": step,
        "total_steps": 9,
        "rows_consumed": 8 * step,
        "tokens_total": 100 * step,
        "sample_digest": "s",
        "num_parameters": NUM_WEIGHTS,
        "config_digest": "c",
        "inputs": InputDigests(model="m", dataset="d"),
        "numerics": NumericsKey(torch_version="2", device="cpu", threads=1, attention="a", pack_tokens=96),
    }
    return RunRecord.model_validate(fields | changes)


@pytest.fixture
def state():
    return FlatState({"adapter": torch.nn.Parameter(torch.ones(NUM_WEIGHTS))}, torch.device("cpu"))


@pytest.fixture
def order(tmp_path) -> RunOrder:
    fd = os.open(tmp_path / "slots", os.O_RDWR | os.O_CREAT)
    yield an_order(a_config(tmp_path, tmp_path / "rows.jsonl"), tmp_path, slots_fd=fd)
    os.close(fd)


def test_a_step_is_reported_after_its_snapshot_is_complete(order, state):
    snapshots, reader, seen = Snapshots(order, ALONE, state), SlotFile(order.slots_fd), []
    for step in (1, 2, 3):
        snapshots.begin(a_record(step), then=lambda: seen.append(reader.newest_id()))
    snapshots.wait()
    assert seen == [StateId(formation=1, step=step) for step in (1, 2, 3)]


def test_the_training_thread_goes_on_while_a_snapshot_is_written(order, state):
    snapshots, is_computed, seen = Snapshots(order, ALONE, state), threading.Event(), []
    snapshots.begin(a_record(1), then=lambda: seen.append(is_computed.wait(timeout=HANG_SECONDS)))
    is_computed.set()
    snapshots.wait()
    assert seen == [True]


def test_the_update_after_the_wait_is_no_part_of_the_snapshot(order, state):
    snapshots = Snapshots(order, ALONE, state)
    snapshots.begin(a_record(1))
    snapshots.wait()
    state.state_3P.fill_(7.0)
    kept = torch.frombuffer(bytearray(snapshots.newest().state), dtype=torch.float32)
    assert torch.equal(kept, torch.cat([torch.ones(NUM_WEIGHTS), torch.zeros(2 * NUM_WEIGHTS)]))


@pytest.mark.parametrize("surfaces_in", ["wait", "begin"])
def test_what_goes_wrong_in_the_writer_surfaces_in_the_training_thread(surfaces_in, order, state):
    snapshots, seen = Snapshots(order, ALONE, state), []
    too_long = a_record(1).model_copy(update={"sample_digest": "s" * 100_000})  # a record of ours has no such digest
    snapshots.begin(too_long, then=lambda: seen.append("reported"))
    with pytest.raises(ValueError, match="run record of 10"):
        snapshots.wait() if surfaces_in == "wait" else snapshots.begin(a_record(2))
    assert seen == []


def test_a_writer_killed_at_any_moment_leaves_a_whole_state(tmp_path):
    fd = os.open(tmp_path / "slots", os.O_RDWR | os.O_CREAT)
    SlotFile(fd).reserve(NUM_KILLED_BYTES)
    steps = []
    for num_lines in (2, 3, 5, 8):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(fd), a_record(0).model_dump_json(), str(NUM_KILLED_BYTES)]
        with subprocess.Popen(command, pass_fds=(fd,), stdout=subprocess.PIPE) as writer:
            for _ in range(num_lines):
                writer.stdout.readline()
            writer.kill()
        snapshot = SlotFile(fd).read_newest()
        assert set(snapshot.state) == {snapshot.record.step % 256}
        steps.append(snapshot.state_id.step)
    os.close(fd)
    assert steps == sorted(set(steps))


NUM_KILLED_BYTES = 4_000_000
# Each state is one byte over and over, the one that its step says.
WRITE_FOR_EVER = """
import sys
from finetune_contract.slots import SlotFile
from finetune_contract.state import RunRecord, StateId

slots, record, size = SlotFile(int(sys.argv[1])), RunRecord.model_validate_json(sys.argv[2]), int(sys.argv[3])
newest = slots.newest_id()
step = 0 if newest is None else newest.step
while True:
    step += 1
    slots.write(StateId(formation=1, step=step), record.model_copy(update={"step": step}), bytes([step % 256]) * size)
    print(step, flush=True)
"""
