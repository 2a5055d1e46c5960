"""The real worker, watched and harmed: it writes down when each step was finished, and does to itself what its plan says.

Agents are pointed at it (FINETUNE_WORKER); the product knows nothing of it. What is done: a deadlock, a loop that holds the
interpreter's lock, a device that is out of memory or broken, gradients that are not finite, slowness, late snapshots.
"""

import collections
import itertools
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import finetune_trainer.worker
from finetune_contract.run_order import RunOrder, WorkerProgress
from finetune_contract.slots import SlotFile
from finetune_contract.values import Value
from finetune_trainer.passes import GradientPass, StepBatch
from finetune_trainer.report import Reporter

WORKER = f"{__name__}:run_rank"
STEP_LOG, PLAN = "FAULT_STEP_LOG", "FAULT_PLAN"
DEADLOCK_SIGNAL = signal.SIGUSR2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`what` is done to `rank` when it begins step `step`, `times` times in the life of the job (None: always).

    With `serial` it is done to the ranks of this member, whatever they are: ranks change from formation to formation.
    """

    what: str
    rank: int | None = None
    serial: int | None = None
    step: int
    times: int | None = 1

    def render(self) -> str:
        return json.dumps(asdict(self))


def run_rank(order: RunOrder) -> None:
    log = Path(os.environ[STEP_LOG])
    watch_steps(log)
    deadlock_when_told()
    if os.environ.get(PLAN):
        follow(Plan(**json.loads(os.environ[PLAN])), order, log)
    finetune_trainer.worker.run_rank(order)


def deadlock_when_told() -> None:
    """In the next step after the signal: its handler may run anywhere, also inside a collective."""
    told, gradient = threading.Event(), GradientPass.gradient
    signal.signal(DEADLOCK_SIGNAL, lambda _number, _frame: told.set())

    def deadlocked(self: GradientPass, step: StepBatch) -> tuple[torch.Tensor, float]:
        if told.is_set():
            deadlock()
        return gradient(self, step)

    GradientPass.gradient = deadlocked


def watch_steps(log: Path) -> None:
    """Each finished step as `moment formation step`, by the clock that all processes of this machine share."""
    tell = Reporter.tell

    def tell_and_note(self: Reporter, event: Value) -> None:
        tell(self, event)
        if isinstance(event, WorkerProgress):
            append(log, f"{time.monotonic():.4f} {event.progress.formation} {event.progress.step}\n")

    Reporter.tell = tell_and_note


def append(file: Path, line: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def follow(plan: Plan, order: RunOrder, log: Path) -> None:
    """Do what the plan says before the step's gradient is computed."""
    gradient = GradientPass.gradient

    def harmed(self: GradientPass, step: StepBatch) -> tuple[torch.Tensor, float]:
        if is_meant(plan, order) and step.index + 1 == plan.step and may_do(plan, log):
            note(log)
            HARMS[plan.what](order, self)
        return gradient(self, step)

    GradientPass.gradient = harmed


def is_meant(plan: Plan, order: RunOrder) -> bool:
    if plan.serial is not None:
        return f"-{plan.serial}/" in order.cache_dir  # below the folder of the member, which has its name
    return int(os.environ["RANK"]) == plan.rank


def may_do(plan: Plan, log: Path) -> bool:
    """True as often as the plan says, over all processes of the job."""
    for number in range(plan.times or 0):
        try:
            log.with_suffix(f".done-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return plan.times is None


def note(log: Path) -> None:
    append(log.with_suffix(".harmed"), f"{time.monotonic():.4f}\n")


def deadlock(*_: object) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hold_the_interpreter(*_: object) -> None:
    collections.deque(itertools.repeat(None), maxlen=0)


def run_out_of_device_memory(order: RunOrder, _passes: GradientPass) -> None:
    """As long as the order's overrides leave the step as large as it was."""
    if order.overrides.pack_tokens is None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def need_more_device_memory_than_there_is(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def break_the_device(*_: object) -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def compute_no_number(_order: RunOrder, passes: GradientPass) -> None:
    """This rank's own gradients of the next step are NaN."""
    seen: set[int] = set()

    def one_pass(step: StepBatch, index: int) -> torch.Tensor:
        loss = GradientPass._one_pass(passes, step, index)
        seen.add(step.index)
        if len(seen) == 1:
            passes._state.gradient_P.fill_(float("nan"))
        return loss

    passes._one_pass = one_pass


def become_slow(_order: RunOrder, passes: GradientPass) -> None:
    """From here on, as long as this process lives."""

    def one_pass(step: StepBatch, index: int) -> torch.Tensor:
        time.sleep(0.1)
        return GradientPass._one_pass(passes, step, index)

    passes._one_pass = one_pass


def keep_snapshots_late(*_: object) -> None:
    """From here on its peers have finished each step long before this rank has kept it."""
    write = SlotFile.write

    def write_late(self: SlotFile, *state: Any) -> None:
        time.sleep(0.15)
        write(self, *state)

    SlotFile.write = write_late


HARMS = {
    "deadlock": deadlock,
    "held interpreter": hold_the_interpreter,
    "device memory": run_out_of_device_memory,
    "too little device memory": need_more_device_memory_than_there_is,
    "broken device": break_the_device,
    "not finite": compute_no_number,
    "slowness": become_slow,
    "late snapshots": keep_snapshots_late,
}
