"""`make bench-recovery`: seconds from a fault to the next optimizer step, beside torchrun at its best, as one table.

Local rows: two members of one process each on this machine, steps timed by the workers themselves. torchrun trains the same tiny Qwen3 and
goes on from a checkpoint that it wrote to disk every 20 steps; its figures contain no pod and no scheduler, and neither do the local ones.
What snapshots cost comes from bench_training.py; the cluster's rows, as root, from e2e/bench_recovery.py and, for 2 x 20 minutes,
e2e/goodput.py.
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from examples.make_tiny_model import make_tiny_model
from tests.faults.bench_training import measure_snapshots
from tests.faults.lives import Scene, a_fault_document, manifests, staged, tell
from tests.faults.peer import measure_torchrun
from tests.faults.worker import DEADLOCK_SIGNAL
from tests.local.runs import ROOT, ROWS

STEPS_BETWEEN = 8
SNAPSHOT_SECONDS = 240.0
LONG = {"training": {"maxSteps": 100_000, "epochs": 1000, "evalEverySteps": None}, "dataset": {"evalFraction": 0}}
HEADING = "| fault | n | next step, p50 | p95 | wanted | lost steps, p50 / most |\n|---|---|---|---|---|---|\n"
CLUSTER_TESTS = {"cluster": "e2e/bench_recovery.py", "goodput": "e2e/goodput.py::test_goodput"}
TORCHRUN = "torchrun --nnodes 2 --max-restarts 100, worker killed with -9"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done to a running job, and the p50 and p95 that are wanted."""

    name: str
    do: Callable[[Scene], None]
    wanted: str
    spares: int = 0


def kill_a_worker(scene: Scene) -> None:
    scene.run.kill_worker(scene.run.members[1])


def stop_a_worker(scene: Scene) -> None:
    tell(scene.run.worker_pids(scene.run.members[1])[0], signal.SIGSTOP)


def deadlock_a_worker(scene: Scene) -> None:
    tell(scene.run.worker_pids(scene.run.members[1])[0], DEADLOCK_SIGNAL)


def kill_an_agent(scene: Scene) -> None:
    scene.run.kill_member(scene.run.members[1])


def kill_every_member(scene: Scene) -> None:
    for member in scene.run.members:
        scene.run.kill_member(member)


FAULTS = (
    Fault(name="worker killed with -9", do=kill_a_worker, wanted="0.8 s / 1.5 s"),
    Fault(name="worker stopped (SIGSTOP)", do=stop_a_worker, wanted="at once + 1.5 s"),
    Fault(name="worker deadlocked, found within 5 s", do=deadlock_a_worker, wanted="5 s + 1.5 s"),
    Fault(name="agent killed with -9, no spare", do=kill_an_agent, wanted="12 s / 20 s"),
    Fault(name="agent killed with -9, one spare", do=kill_an_agent, wanted="2 s / 4 s", spares=1),
    Fault(name="all members killed with -9", do=kill_every_member, wanted="15 s / 25 s"),
)


def render(name: str, seconds: tuple[float, ...], wanted: str, lost_steps: tuple[int, ...]) -> str:
    lost = f"{statistics.median(lost_steps):.0f} / {max(lost_steps)}"
    return f"| {name} | {len(seconds)} | {quantile(seconds, 0.5):.2f} s | {quantile(seconds, 0.95):.2f} s | {wanted} | {lost} |\n"


def quantile(values: tuple[float, ...], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


async def measure(fault: Fault, *, inputs: Path, repeats: int) -> str:
    """The same job is disturbed again and again, each time after some undisturbed steps and with its spares ready."""
    seconds, lost = [], []
    with tempfile.TemporaryDirectory() as folder:
        document = a_fault_document(Path(folder), inputs, **LONG, resources={"spares": fault.spares})
        async with staged(Path(folder), document) as scene:
            for _ in range(repeats):
                begun = scene.run.step
                await scene.reach(begun + STEPS_BETWEEN, deadline_seconds=120)
                await scene.until("its spares", lambda run: run.status.ready_spares == fault.spares, deadline_seconds=60)
                await scene.until("a commit", lambda _run, folder=folder: manifests(Path(folder)))
                scene.strike()
                fault.do(scene)
                strike = scene.strikes[-1]
                seconds.append(
                    await scene.until(
                        f"a step after: {fault.name}", lambda _run, at=strike: scene.steps.seconds_after(at), deadline_seconds=90
                    )
                )
                lost.append(scene.steps.lost_after(strike))
    return render(f"local: {fault.name}", tuple(seconds), fault.wanted, tuple(lost))


def local_rows(faults: tuple[Fault, ...], inputs: Path, repeats: int) -> None:
    for fault in faults:
        show(asyncio.run(measure(fault, inputs=inputs, repeats=repeats)))


def snapshot_rows(seconds: float) -> None:
    """Not a time to a next step but to this one: what the state that makes it short costs."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_snapshots(Path(folder), seconds=seconds)
    for row in rows:
        wanted = "5 ms" if "blocked" in row.name else "0.5 %" if "cost" in row.name else "-"
        show(f"| snapshots: {row.name} | {row.n} | {row.p50} | {row.p95} | {wanted} | - |\n")


def cluster_rows(tests: list[str], repeats: int) -> bool:
    """Rows that `tests` print, and what went wrong after them; False if something did."""
    command = [sys.executable, "-m", "pytest", *tests, "-s", "--tb=short", "--repeats", str(repeats)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = [line for line in done.stdout.splitlines(keepends=True) if line.startswith("| ") and not line.startswith("| fault")]
    show("".join(f"| cluster: {row[2:]}" for row in rows))
    if done.returncode != 0:
        show(done.stdout)
    return done.returncode == 0


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--only", default="", help="rows whose name has this word: one of the local faults, torchrun, snapshots, cluster, or goodput"
    )
    arguments = parser.parse_args()
    chosen = tuple(fault for fault in FAULTS if arguments.only in fault.name)
    show(HEADING)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        (inputs / "rows.jsonl").write_text(ROWS.read_text())
        make_tiny_model(inputs / "qwen3", hidden_size=32)
        local_rows(chosen, inputs, arguments.repeats)
        if arguments.only in TORCHRUN:
            seconds, lost = measure_torchrun(inputs, arguments.repeats)
            show(render(TORCHRUN, seconds, "-", lost))
    if arguments.only in "snapshots":
        snapshot_rows(SNAPSHOT_SECONDS)
    tests = [test for word, test in CLUSTER_TESTS.items() if arguments.only in word]
    is_good = os.geteuid() != 0 or not tests or cluster_rows(tests, arguments.repeats)
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
