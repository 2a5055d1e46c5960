"""A trainer of one file for the agent's tests: gloo all-reduces, slots, beats, events; "trains" by counting. FAKE_TRAINER sets its mood."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from finetune_contract.beat import Beat
from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.reports import Progress
from finetune_contract.run_order import RunOrder, WorkerDone, WorkerExported, WorkerFailure, WorkerPhase, WorkerProgress
from finetune_contract.slots import SlotFile
from finetune_contract.state import InputDigests, NumericsKey, RunRecord, StateId, newest_state

NUM_PARAMETERS = 8


def run_rank(order: RunOrder) -> None:
    torch.set_num_threads(1)
    mood = os.environ.get("FAKE_TRAINER", "")
    rank = int(os.environ["RANK"])
    try:
        _train(order, rank, int(os.environ["LOCAL_RANK"]), mood)
    except RuntimeError as error:
        text = f"peer lost: {error}"[:500]
        _tell(order, WorkerFailure(report=FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=text, rank=rank)))
        raise


def _train(order: RunOrder, rank: int, local_rank: int, mood: str) -> None:
    beat, slots = Beat(order.beat_fd), SlotFile(order.slots_fd)
    _phase(order, local_rank, "loading")
    if mood == "stray" and local_rank == 0:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    dist.init_process_group("gloo")
    if mood == "row 17":
        report = FailureReport(failure_class=FailureClass.USER_ERROR, message="row 17: no messages", rank=rank)
        _tell(order, WorkerFailure(report=report))
        raise ValueError("row 17")
    state, step = _restore(order, slots, local_rank)
    _phase(order, local_rank, "first_step")
    first = step
    while step < order.config.training.max_steps:
        one = torch.ones(3 * NUM_PARAMETERS)
        beat.set_owes_snapshot(local_rank, True)
        dist.all_reduce(one)
        state += one / dist.get_world_size()
        step += 1
        beat.advance(local_rank)
        if mood == "late snapshots" and rank > 0:
            time.sleep(0.3)
        if local_rank == 0:
            slots.write(StateId(formation=order.formation, step=step), _record(order, step), state.numpy())
        beat.set_owes_snapshot(local_rank, False)
        if step == first + 1:
            _phase(order, local_rank, "training", resumed_step=first)
        if rank == 0:
            _tell(order, WorkerProgress(progress=_progress(order, step)))
        if mood == "hang" and step == 3:
            while True:
                time.sleep(1)
        time.sleep(0.02)
    dist.barrier()
    if rank == 0:
        _phase(order, local_rank, "exporting")
        Path(order.output_dir, "adapter_model.safetensors").write_bytes(state.numpy().tobytes())
        Path(order.output_dir, "adapter_config.json").write_text("{}")
        done = StateId(formation=order.formation, step=step)
        _tell(order, WorkerExported(state=done, state_sha256="0", first_loss=2.0, last_loss=1.0, eval_loss=None))
    _tell(order, WorkerDone(rank=rank))


def _restore(order: RunOrder, slots: SlotFile, local_rank: int) -> tuple[torch.Tensor, int]:
    if local_rank == 0:
        slots.reserve(12 * NUM_PARAMETERS)
    dist.barrier()
    known: list[StateId | None] = [None] * dist.get_world_size()
    dist.all_gather_object(known, slots.newest_id())
    newest = newest_state(*known)
    state = torch.zeros(3 * NUM_PARAMETERS)
    if newest is None:
        return state, 0
    source = known.index(newest)
    if dist.get_rank() == source:
        snapshot = slots.read_newest()
        state = torch.frombuffer(bytearray(snapshot.state), dtype=torch.float32).clone()
    dist.broadcast(state, source)
    return state, newest.step


def _record(order: RunOrder, step: int) -> RunRecord:
    return RunRecord(
        step=step,
        total_steps=order.config.training.max_steps,
        rows_consumed=step,
        tokens_total=step,
        sample_digest="",
        num_parameters=NUM_PARAMETERS,
        config_digest=order.config.trajectory_digest(),
        inputs=InputDigests(model=order.model_digest, dataset=order.dataset_digest, model_revision=order.model_revision),
        numerics=NumericsKey(torch_version="2", device="cpu", threads=1, attention="none", pack_tokens=1),
    )


def _progress(order: RunOrder, step: int) -> Progress:
    return Progress(
        formation=order.formation,
        step=step,
        total_steps=order.config.training.max_steps,
        epoch=0.0,
        loss=1.0 / step,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens_total=step,
        tokens_per_second=1.0,
        step_seconds=0.02,
    )


def _phase(order: RunOrder, local_rank: int, phase: str, resumed_step: int | None = None) -> None:
    if local_rank == 0:
        _tell(order, WorkerPhase(phase=phase, resumed_step=resumed_step))


def _tell(order: RunOrder, event) -> None:
    os.write(order.events_fd, event.model_dump_json().encode() + b"\n")
