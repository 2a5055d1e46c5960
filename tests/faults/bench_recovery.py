"""`make bench-recovery`: seconds from a fault to the next optimizer step on the local run, beside torchrun at its best, as one table.

Both train the same tiny Qwen3 with two members of one process each on this machine. torchrun restarts its workers and goes on from
a checkpoint that it wrote to disk every 20 steps; its figures contain no pod and no scheduler, and neither do ours.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from examples.make_tiny_model import make_tiny_model
from tests.faults.lives import a_fault_document, seconds_to_next_step
from tests.faults.peer import measure_torchrun
from tests.local.runs import ROWS, a_run

from finetune_operator.local.local_run import LocalRun

STEPS_BETWEEN = 8
LONG = {"training": {"maxSteps": 100_000, "evalEverySteps": None}, "dataset": {"evalFraction": 0}}
Fault = Callable[[LocalRun], Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds to the next step and lost steps of each repetition."""

    name: str
    seconds: tuple[float, ...]
    lost_steps: tuple[int, ...]

    def render(self) -> str:
        p50, p95 = quantile(self.seconds, 0.5), quantile(self.seconds, 0.95)
        lost = f"{statistics.median(self.lost_steps):.0f} / {max(self.lost_steps)}" if self.lost_steps else "-"
        return f"| {self.name} | {len(self.seconds)} | {p50:.2f} s | {p95:.2f} s | {lost} |"


def quantile(values: tuple[float, ...], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def a_worker(run: LocalRun) -> Callable[[], object]:
    return lambda: run.kill_worker(run.members[1])


def an_agent(run: LocalRun) -> Callable[[], object]:
    return lambda: run.kill_member(run.members[1])


def every_member(run: LocalRun) -> Callable[[], object]:
    return lambda: [run.kill_member(member) for member in run.members]


async def measure(name: str, fault: Fault, *, inputs: Path, repeats: int, spares: int = 0) -> Row:
    """The same job is disturbed again and again, each time after some undisturbed steps and with its spares ready."""
    seconds, changes = [], LONG | {"resources": {"spares": spares}}
    with tempfile.TemporaryDirectory() as folder:
        async with a_run(Path(folder), a_fault_document(Path(folder), inputs, **changes)) as run:
            for _ in range(repeats):
                begun = run.step
                await run.wait_until("some steps", lambda run, begun=begun: run.step >= begun + STEPS_BETWEEN, deadline_seconds=120)
                await run.wait_until("its spares", lambda run: run.status.ready_spares == spares, deadline_seconds=60)
                seconds.append(await seconds_to_next_step(run, fault(run)))
            lost = tuple(recovery.lost_steps or 0 for recovery in run.status.recoveries)
    return Row(name=name, seconds=tuple(seconds), lost_steps=lost)


async def measure_all(inputs: Path, repeats: int) -> list[Row]:
    faults: tuple[tuple[str, Fault], ...] = (
        ("worker killed with -9", a_worker),
        ("agent killed with -9, no spare", an_agent),
        ("all members killed with -9", every_member),
    )
    rows = [await measure(name, fault, inputs=inputs, repeats=repeats) for name, fault in faults]
    return [*rows, await measure("agent killed with -9, one spare", an_agent, inputs=inputs, repeats=repeats, spares=1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        (inputs / "rows.jsonl").write_text(ROWS.read_text())
        make_tiny_model(inputs / "qwen3", hidden_size=32)
        rows = asyncio.run(measure_all(inputs, repeats))
        seconds, lost = measure_torchrun(inputs, repeats)
        rows.append(Row(name="torchrun --nnodes 2 --max-restarts 100, worker killed with -9", seconds=seconds, lost_steps=lost))
    sys.stdout.write("| fault | n | next step, p50 | p95 | lost steps, p50 / most |\n|---|---|---|---|---|\n")
    sys.stdout.write("".join(f"{row.render()}\n" for row in rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
