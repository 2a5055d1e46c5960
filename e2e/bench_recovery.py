"""Seconds from a fault to the next optimizer step on the cluster, as one table. Called by `make bench-recovery`.

One job a row is disturbed again and again, each time after some undisturbed steps and with its spares ready. Steps are timed by the
snapshots in the members' memory (steps.py) and nothing else; detection by the recovery that status tells of, "operator back" by its log.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest

from e2e import injuries
from e2e.fixtures import Product
from e2e.harness.cluster import Cluster
from e2e.injuries import Hands, Injury
from e2e.product import RELEASE, SYSTEM, Job, JsonObject, Team, wait_until
from e2e.steps import StepWatch, watching_steps

STEPS_BETWEEN = 8
ENDLESS = {"training": {"epochs": 1000}, "dataset": {"evalFraction": None}}
HEADING = "| fault | n | next step, p50 | p95 | wanted | lost steps, p50 / most |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is done to a job, and the p50 and p95 that are wanted. `from_operator`: seconds count from when the operator is back."""

    name: str
    injury: Injury
    wanted: str
    spares: int = 0
    is_warned: bool = False
    is_detection_shown: bool = False
    from_operator: bool = False


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One repetition, seconds since the fault."""

    next_step: float
    lost_steps: int
    detected: float
    phases: JsonObject


ROWS = (
    Row(name="worker killed with -9", injury=injuries.worker_killed, wanted="1.5 s / 3 s"),
    Row(name="worker stopped (SIGSTOP)", injury=injuries.worker_stopped, wanted="at once + 1.5 s"),
    Row(
        name="pod deleted with grace: longest pause between two steps",
        injury=injuries.pod_deleted,
        wanted="1.5 s / 3 s",
        is_warned=True,
    ),
    Row(name="pod force-deleted, no spare", injury=injuries.pod_force_deleted, wanted="12 s / 20 s"),
    Row(name="pod force-deleted, one spare", injury=injuries.pod_force_deleted, wanted="2 s / 4 s", spares=1),
    Row(name="node cut off, no spare", injury=injuries.node_cut_off, wanted="18 s / 30 s", is_detection_shown=True),
    Row(name="node cut off, one spare", injury=injuries.node_cut_off, wanted="8 s / 12 s", spares=1, is_detection_shown=True),
    Row(name="all members gone", injury=injuries.all_force_deleted, wanted="15 s / 25 s"),
    Row(
        name="operator killed while a member dies, no spare: from the operator's return",
        injury=injuries.operator_killed_while_a_member_dies,
        wanted="3 s",
        from_operator=True,
    ),
    Row(
        name="operator killed while a member dies, one spare: from the operator's return",
        injury=injuries.operator_killed_while_a_member_dies,
        wanted="3 s",
        spares=1,
        from_operator=True,
    ),
)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines of the rows that were measured; the whole table is printed at the end, also when a row failed."""
    lines: list[str] = []
    yield lines
    sys.stdout.write(f"\n{HEADING}{''.join(lines)}")


@pytest.mark.parametrize("row", ROWS, ids=[row.name.replace(" ", "-").replace(",", "").replace(":", "") for row in ROWS])
def test_bench_recovery(
    row: Row, table: list[str], team: Team, product: Product, nodes_under_control: Cluster, request: pytest.FixtureRequest
) -> None:
    hands = Hands(cluster=nodes_under_control, product=product)
    # Not one name for all rows: the members of the row before may still be ending, and steps are told apart by their job's name.
    job = team.submit(f"disturbed-{ROWS.index(row)}", resources={"spares": row.spares}, **ENDLESS)
    job.wait_phase("Training", deadline_seconds=120)
    with watching_steps(job.name) as watch:
        samples = [measure(row, hands, job, watch) for _ in range(int(request.config.getoption("--repeats")))]
    table += rendered(row, samples)


def measure(row: Row, hands: Hands, job: Job, watch: StepWatch) -> Sample:
    watch.wait_steps(STEPS_BETWEEN, deadline_seconds=120)
    wait_until("its spares", lambda: hands.status(job).get("readySpares", 0) == row.spares, deadline_seconds=120)
    wait_until("a formation that trains", lambda: hands.status(job)["phase"] == "Training", deadline_seconds=60)
    before = watch.newest_formation()
    with row.injury(hands, job) as at:
        step = watch.wait_step_after(before, deadline_seconds=180)
        wait_until("the recovery in status", lambda: is_told(hands.status(job)), deadline_seconds=30)
        status = hands.status(job)
        told = status["recoveries"][-1]
        began = operator_is_back(hands) if row.from_operator else at
        seconds = step.at - began
        if row.is_warned:
            watch.wait_steps(STEPS_BETWEEN, deadline_seconds=60)
            seconds = watch.longest_pause(since=at)
    detected = datetime.fromisoformat(told["at"]).timestamp() - at
    phases = {name: value for name, value in told.items() if name.endswith("Seconds")}
    sample = Sample(next_step=seconds, lost_steps=watch.lost_steps(step.formation), detected=detected, phases=phases)
    sys.stdout.write(f"\n{row.name}: {sample}")
    return sample


def is_told(status: JsonObject) -> bool:
    recoveries = status.get("recoveries", [])
    return bool(recoveries) and recoveries[-1].get("totalSeconds") is not None


def operator_is_back(hands: Hands) -> float:
    """The moment at which the newest operator held the lease and its channel listened, by its own log."""
    system = hands.product.kubectl.within(SYSTEM)
    lines = [
        json.loads(line) for line in system.run("logs", "-l", f"app.kubernetes.io/instance={RELEASE}", "--tail=-1").stdout.splitlines()
    ]
    return max(datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["message"] == "channel is open")


def rendered(row: Row, samples: list[Sample]) -> list[str]:
    seconds, lost = [sample.next_step for sample in samples], [sample.lost_steps for sample in samples]
    figures = f"{quantile(seconds, 0.5):.2f} s | {quantile(seconds, 0.95):.2f} s"
    lines = [f"| {row.name} | {len(samples)} | {figures} | {row.wanted} | {statistics.median(lost):.0f} / {max(lost)} |\n"]
    if row.is_detection_shown:
        found = [sample.detected for sample in samples]
        lines.append(
            f"| of it until detected | {len(samples)} | {quantile(found, 0.5):.2f} s | {quantile(found, 0.95):.2f} s | 5 s | - |\n"
        )
    return lines


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
