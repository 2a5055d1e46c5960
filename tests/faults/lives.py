"""Jobs that are disturbed on purpose, and what must hold afterwards whatever happened: shared by the fault suite, chaos and benchmarks."""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.builders.machine import HANG_SECONDS
from tests.faults.ledger import Figures
from tests.faults.steps import StepLog, Strike
from tests.faults.worker import PLAN, STEP_LOG, WORKER, Plan
from tests.local.runs import ROOT, a_document, a_run

from finetune_contract.commits import OUTPUT_MANIFEST_NAME, OutputManifest
from finetune_operator.api.status import JobStatus
from finetune_operator.local.local_run import LocalRun
from finetune_operator.local.members import LocalMember
from finetune_operator.local.proc import processes_in

NUM_STEPS = 60
# Steps enough for a replacement to import torch while the others train on.
LONG = 250
UNWATCHED = StepLog(Path(os.devnull))
# Evaluations on the way, and steps slow enough that a fault hits one and not the end.
TRAINING = {"maxSteps": NUM_STEPS, "globalBatchSize": 16, "evalEverySteps": 25}


def a_fault_document(folder: Path, inputs: Path, **changes) -> dict:
    sections = {"training": TRAINING, "dataset": {"evalFraction": 0.1}}
    for section, change in changes.items():
        sections[section] = sections.get(section, {}) | change
    return a_document(folder, model=inputs / "qwen3", rows=inputs / "rows.jsonl", **sections)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A job that runs and can be disturbed. `strike` right before each fault: figures count from there."""

    run: LocalRun
    folder: Path
    steps: StepLog
    strikes: list[Strike] = field(default_factory=list)

    def strike(self, *, is_warned: bool = False) -> None:
        self.strikes.append(Strike(at=time.monotonic(), formation=self.run.status.last_formation, is_warned=is_warned))

    async def reach(self, step: int, *, deadline_seconds: float = HANG_SECONDS) -> None:
        await reach(self.run, step, deadline_seconds=deadline_seconds)

    async def until(self, what: str, ask: Callable[[LocalRun], object], *, deadline_seconds: float = HANG_SECONDS) -> Any:
        """The first true answer."""
        return await self.run.wait_until(what, ask, deadline_seconds=deadline_seconds)

    async def until_formation(self, number: int) -> None:
        await self.until(f"formation {number}", lambda run: run.status.last_formation >= number)

    def kill_worker(self, index: int) -> None:
        self.strike()
        self.run.kill_worker(self.run.members[index])

    def kill_member(self, index: int) -> None:
        self.strike()
        self.run.kill_member(self.run.members[index])

    def member_of_node_rank(self, node_rank: int) -> LocalMember:
        serial = self.run.status.formation.serials[node_rank]
        return next(member for member in self.run.members if member.serial == serial)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a finished job left behind. `sample_digest` chains the rows of all steps: equal = each row exactly once, in order."""

    status: JobStatus
    adapter_sha256: str
    sample_digest: str | None
    events: tuple[str, ...]
    num_living: int
    steps: StepLog = UNWATCHED
    strikes: tuple[Strike, ...] = ()
    exit_codes: dict[str, int] = field(default_factory=dict)

    def tells(self, *words: str) -> bool:
        """One event has all these words."""
        return any(all(word in event for word in words) for event in self.events)

    @property
    def seconds_to_next_steps(self) -> list[float]:
        """Of all strikes without warning that led to another formation."""
        found = [self.steps.seconds_after(strike) for strike in self.strikes if not strike.is_warned]
        return [seconds for seconds in found if seconds is not None]

    @property
    def seconds_to_next_step(self) -> float | None:
        return max(self.seconds_to_next_steps, default=None)

    @property
    def seconds_of_pause(self) -> float:
        """The longest time between two finished steps since the first strike."""
        return self.steps.longest_pause(since=self.strikes[0].at)

    @property
    def lost_steps(self) -> int:
        """Finished steps that were computed again, the most that any one recovery lost."""
        return self.steps.most_lost()


@contextlib.asynccontextmanager
async def staged(folder: Path, document: dict, *, plan: Plan | None = None) -> AsyncIterator[Scene]:
    """A job that runs with the watched worker, until the block is left."""
    log = StepLog(folder / "steps.log")
    environment = {"FINETUNE_WORKER": WORKER, "PYTHONPATH": str(ROOT), STEP_LOG: str(log.file)}
    async with a_run(folder, document, **environment, **({} if plan is None else {PLAN: plan.render()})) as run:
        yield Scene(run=run, folder=folder, steps=log)


async def live(
    folder: Path,
    document: dict,
    disturb: Callable[[Scene], Awaitable[None]],
    *,
    plan: Plan | None = None,
    deadline_seconds: float = HANG_SECONDS,
) -> Life:
    """Run a job, disturb it, and wait for its end."""
    async with staged(folder, document, plan=plan) as scene:
        run, codes = scene.run, ExitCodes(scene.run)
        await disturb(scene)
        status = await run.wait_end(deadline_seconds=deadline_seconds)
        events = tuple(f"{event.reason}: {event.message}" for event in run.events)
        num_living = len(processes_in(run.folders.members))
    weights = folder / "adapter" / "adapter_model.safetensors"
    return Life(
        status=status,
        adapter_sha256=hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "",
        sample_digest=sample_digest(folder),
        events=events,
        num_living=num_living,
        steps=scene.steps,
        strikes=tuple(scene.strikes),
        exit_codes=codes.seen,
    )


class ExitCodes:
    """Exit code of every member that ended, by name; the run itself forgets those that it ended."""

    def __init__(self, run: LocalRun) -> None:
        self.seen: dict[str, int] = {}
        watch = run._members._watch

        async def watch_and_note(member: LocalMember) -> None:
            await watch(member)
            self.seen[member.name] = member.exit_code

        run._members._watch = watch_and_note


def judge(
    life: Life,
    undisturbed: Life,
    figures: Figures,
    *,
    crashes: int = 0,
    disruptions: int = 0,
    max_lost_steps: int = 1,
    is_warned: bool = False,
) -> None:
    """What holds after every fault. `is_warned`: training goes on meanwhile, so the pause between two steps counts."""
    is_same = life.adapter_sha256 == undisturbed.adapter_sha256
    seconds = life.seconds_of_pause if is_warned else life.seconds_to_next_step
    figures.tell(seconds=seconds, lost_steps=life.lost_steps, same_bytes=is_same)
    assert life.status.is_true("Complete"), (life.status.conditions, life.events)
    assert is_same, life.events
    assert life.sample_digest == undisturbed.sample_digest is not None
    assert life.lost_steps <= max_lost_steps, life.steps.read()
    assert life.num_living == 0
    counted = life.status.restarts
    assert (counted.crashes, counted.disruptions) == (crashes, disruptions), (life.status.recoveries, life.events)


async def reach(run: LocalRun, step: int, *, deadline_seconds: float = HANG_SECONDS) -> None:
    await run.wait_until(f"step {step}", lambda run: run.step >= step, deadline_seconds=deadline_seconds)


def lost_steps(status: JobStatus) -> int:
    """As status tells."""
    return max((recovery.lost_steps or 0 for recovery in status.recoveries), default=0)


def manifests(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").rglob("commit/*.json"))


def sample_digest(folder: Path) -> str | None:
    """Of the published adapter."""
    file = folder / "adapter" / OUTPUT_MANIFEST_NAME
    return OutputManifest.model_validate_json(file.read_text()).sample_digest if file.exists() else None


def tell(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def leave(member: LocalMember) -> None:
    """SIGTERM to PID 1, as the kubelet does."""
    tell(member.pid, signal.SIGTERM)
