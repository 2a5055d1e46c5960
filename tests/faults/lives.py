"""Jobs that are disturbed on purpose, and what must hold afterwards whatever happened: shared by the fault suite and its benchmark."""

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.local.runs import a_document, a_run

from finetune_contract.commits import OUTPUT_MANIFEST_NAME, OutputManifest
from finetune_operator.api.status import JobStatus
from finetune_operator.local.local_run import LocalRun
from finetune_operator.local.members import LocalMember
from finetune_operator.local.proc import processes_in

NUM_STEPS = 60
# Evaluations on the way, and steps slow enough that a fault hits one and not the end.
TRAINING = {"maxSteps": NUM_STEPS, "globalBatchSize": 16, "evalEverySteps": 25}


def a_fault_document(folder: Path, inputs: Path, **changes) -> dict:
    sections = {"training": TRAINING, "dataset": {"evalFraction": 0.1}}
    for section, change in changes.items():
        sections[section] = sections.get(section, {}) | change
    return a_document(folder, model=inputs / "qwen3", rows=inputs / "rows.jsonl", **sections)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a finished job left behind. `sample_digest` chains the rows of all steps: equal = each row exactly once, in order."""

    status: JobStatus
    adapter_sha256: str
    sample_digest: str | None
    events: tuple[str, ...]
    num_living: int


async def live(folder: Path, document: dict, disturb: Callable[[LocalRun], object], *, deadline_seconds: float = 120) -> Life:
    """Run a job, disturb it, and wait for its end."""
    async with a_run(folder, document) as run:
        await disturb(run)
        status = await run.wait_end(deadline_seconds=deadline_seconds)
        events = tuple(f"{event.reason}: {event.message}" for event in run.events)
        num_living = len(processes_in(run.folders.members))
    weights = folder / "adapter" / "adapter_model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
    return Life(status=status, adapter_sha256=sha256, sample_digest=sample_digest(folder), events=events, num_living=num_living)


def manifests(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").rglob("commit/*.json"))


def sample_digest(folder: Path) -> str | None:
    """Of the published adapter."""
    file = folder / "adapter" / OUTPUT_MANIFEST_NAME
    return OutputManifest.model_validate_json(file.read_text()).sample_digest if file.exists() else None


async def reach(run: LocalRun, step: int) -> None:
    await run.wait_until(f"step {step}", lambda run: run.step >= step, deadline_seconds=60)


async def seconds_to_next_step(run: LocalRun, fault: Callable[[], object]) -> float:
    """From the fault to the first step that a later formation reports."""
    before = run.status.last_formation
    started = time.monotonic()
    fault()

    def is_past(run: LocalRun) -> bool:
        return any(session.progress is not None and session.progress.formation > before for session in run.sessions)

    await run.wait_until("a step of the next formation", is_past, deadline_seconds=90)
    return time.monotonic() - started


def lost_steps(status: JobStatus) -> int:
    return max((recovery.lost_steps or 0 for recovery in status.recoveries), default=0)


def tell(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def leave(member: LocalMember) -> None:
    """SIGTERM to PID 1, as the kubelet does."""
    tell(member.pid, signal.SIGTERM)


async def stop_for(pid: int, seconds: float) -> None:
    """SIGSTOP now, SIGCONT later."""
    tell(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    tell(pid, signal.SIGCONT)
