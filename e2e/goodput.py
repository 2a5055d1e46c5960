"""Training under random faults on the cluster: how much of its undisturbed pace a job keeps, and chaos with equal bytes.

    python -m e2e.goodput --minutes 20 --seed 1            one fault a minute, with one spare and without
    python -m e2e.goodput --minutes 20 --seed 1 --chaos    a fault every 15 to 60 s, over jobs one after the other

The seed decides kinds and moments; victims are drawn by it among those that live. Half of the faults kill a worker, a quarter deletes
a pod with grace, the rest force-delete a pod or cut off a node by turns.
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from tests.faults.ledger import Figures
from tests.faults.tally import Tally, keep_run

from e2e import injuries
from e2e.faults import Account, Undisturbed, came_through, in_training, is_warned, moment, strike
from e2e.fixtures import ROOT, Product
from e2e.harness.cluster import Cluster
from e2e.injuries import Hands
from e2e.product import Job, JsonObject, NotReached, Team, wait_until
from e2e.steps import StepWatch, watching_steps

KINDS = {
    "worker": injuries.worker_killed,
    "deleted": injuries.pod_deleted,
    "forced": injuries.pod_force_deleted,
    "cut": injuries.node_cut_off,
}
CUT_SECONDS = 20.0
CALM_SECONDS = 90.0  # without a fault, before and after the others: the pace of the same job on the same machine
WANTED = {0: 0.85, 1: 0.95}
CHAOS_SECONDS = 240.0  # of training in a job of the chaos: long enough for several faults
PACED_EPOCHS = 20


@dataclass(frozen=True, kw_only=True)
class PlannedFault:
    """`second` since the beginning."""

    second: float
    kind: str


def plan(seed: int, minutes: float) -> list[PlannedFault]:
    """One fault a minute, in the first third of it, in the shares of the module's promise."""
    chance, number = random.Random(seed), max(1, round(minutes))
    rest = ["forced", "cut"] * number
    kinds = ["worker"] * (number // 2) + ["deleted"] * (number // 4)
    kinds = [*kinds, *rest[: number - len(kinds)]]
    chance.shuffle(kinds)
    return [PlannedFault(second=60.0 * minute + chance.uniform(0.0, 20.0), kind=kind) for minute, kind in enumerate(kinds)]


def pace(watch: StepWatch, *, since: float, until: float) -> float:
    """Steps a second that lasted: one that is computed again keeps its number and counts once."""
    return (watch.furthest_step(until) - watch.furthest_step(since)) / (until - since)


def calm_pace(watch: StepWatch) -> float:
    began = time.time()
    time.sleep(CALM_SECONDS)
    return pace(watch, since=began, until=time.time())


def lost_steps(watch: StepWatch, *, since: float, until: float) -> int:
    """Finished steps that a later formation computed again."""
    numbers = [step.step for step in watch.steps() if since <= step.at <= until]
    return len(numbers) - len(set(numbers))


@pytest.mark.parametrize("spares", sorted(WANTED), ids=["without-a-spare", "with-one-spare"])
def test_goodput(spares: int, team: Team, product: Product, nodes_under_control: Cluster, request: pytest.FixtureRequest) -> None:
    seed, minutes = request.config.getoption("--seed"), request.config.getoption("--minutes")
    hands = Hands(cluster=nodes_under_control, product=product, chance=random.Random(seed))
    dataset = {"uri": "s3://data/endless.jsonl", "evalFraction": None}
    job = team.submit(f"goodput-{spares}", resources={"spares": spares}, training={"epochs": 1000}, dataset=dataset)
    job.wait_phase("Training", deadline_seconds=120)
    with watching_steps(job.name) as watch:
        wait_until("its spares", lambda: hands.status(job).get("readySpares", 0) == spares, deadline_seconds=120)
        watch.wait_steps(50, deadline_seconds=120)
        calm_before = calm_pace(watch)
        began, counted = time.time(), hands.status(job)["goodput"]
        for fault in plan(seed, minutes):
            time.sleep(max(0.0, began + fault.second - time.time()))
            injure(hands, job, fault.kind, began)
        time.sleep(max(0.0, began + 60.0 * minutes - time.time()))
        wait_until("a formation that trains", lambda: hands.status(job)["phase"] == "Training", deadline_seconds=120)
        until, status = time.time(), hands.status(job)
        wait_until("its spares", lambda: hands.status(job).get("readySpares", 0) == spares, deadline_seconds=120)
        calm = statistics.mean((calm_before, calm_pace(watch)))
        kept, lost = pace(watch, since=began, until=until) / calm, lost_steps(watch, since=began, until=until)
    told, restarts = share_told(counted, status["goodput"]), status["restarts"]
    name = f"goodput over {minutes:g} min, one fault a minute, {'one spare' if spares else 'no spare'}"
    shares = f"{told:.1%} as status tells | {kept:.1%} of the undisturbed pace"
    sys.stdout.write(f"\n| {name} | {round(minutes)} | {shares} | {WANTED[spares]:.0%} | {lost} in all |\n")
    sys.stdout.write(f"seed {seed}, {restarts}, undisturbed {calm:.1f} steps/s, {calm_before:.1f} of them before\n")
    assert kept >= WANTED[spares]
    assert told >= WANTED[spares]
    assert restarts["crashesWithoutProgress"] == 0


def share_told(before: JsonObject, after: JsonObject) -> float:
    spent = {name: after[name] - before.get(name, 0.0) for name in after}
    return float(spent["trainingSeconds"] / sum(spent.values()))


@dataclass(frozen=True, kw_only=True)
class Injury:
    kind: str
    at: datetime


def injure(hands: Hands, job: Job, kind: str, began: float) -> Injury | None:
    """A node that is cut off comes back after a while. Where no node can be cut off without the operator, a pod is force-deleted."""
    wait_until("a formation with all its members", lambda: is_whole(hands, job), deadline_seconds=120)
    sys.stdout.write(f"{time.time() - began:6.1f} s: {kind} on {job.name}\n")
    injury = Injury(kind=kind, at=datetime.now(UTC))
    try:
        with KINDS[kind](hands, job):
            time.sleep(CUT_SECONDS if kind == "cut" else 0.0)
    except NotReached as error:
        sys.stdout.write(f"  not possible now: {error}\n")
        return injure(hands, job, "forced", began) if kind == "cut" else None
    return injury


def is_whole(hands: Hands, job: Job) -> bool:
    try:
        return len(hands.crew(job)) > 0
    except (NotReached, KeyError):
        return False


@pytest.mark.fault(32)
def test_chaos(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster, request: pytest.FixtureRequest
) -> None:
    seed, minutes = request.config.getoption("--seed"), request.config.getoption("--minutes")
    training = {"epochs": epochs_of(team, CHAOS_SECONDS)}
    undisturbed.sha256_of(training["epochs"])  # first: its minutes have no faults
    chance, tally, began = random.Random(seed), Tally(), time.time()
    hands = Hands(cluster=nodes_under_control, product=product, chance=chance)
    while time.time() - began < 60.0 * minutes:
        job = in_training(team, f"chaos-{tally.num_jobs}", training=training, resources={"spares": tally.num_jobs % 2})
        wound, injuries_done = strike(job, figures), list[Injury]()
        for kind in kinds(chance):
            time.sleep(chance.uniform(15.0, 60.0))
            if hands.status(job)["phase"] in {"Exporting", "Complete", "Failed"}:
                break
            if injury := injure(hands, job, kind, began):
                injuries_done.append(injury)
        account = came_through(wound, undisturbed)
        note(tally, account, injuries_done)
        sys.stdout.write(f"{job.name}: {account.status['restarts']}, {account.lost_steps} steps lost, same bytes\n")
        assert account.lost_steps <= len(account.recoveries), account.recoveries
    keep_run("chaos, cluster", seed, tally, minutes=(time.time() - began) / 60.0)


def epochs_of(team: Team, seconds: float) -> int:
    """After how many this machine has trained so long."""
    spent = team.submit("pace", training={"epochs": PACED_EPOCHS}).wait_complete(deadline_seconds=900)["goodput"]
    return max(1, round(PACED_EPOCHS * seconds / float(spent["trainingSeconds"])))


def note(tally: Tally, account: Account, injuries_done: list[Injury]) -> None:
    """Of one job that came through; a recovery belongs to the last injury before its end."""
    spent = account.status["goodput"]
    wasted = spent.get("recoveringSeconds", 0.0) + spent.get("lostSeconds", 0.0)
    tally.num_jobs += 1
    tally.kinds.update(injury.kind for injury in injuries_done)
    tally.most_lost = max(tally.most_lost, *(entry.get("lostSteps", 0) for entry in account.recoveries), 0)
    tally.goodput.append(spent["trainingSeconds"] / (spent["trainingSeconds"] + wasted))
    for entry in account.recoveries:
        end = moment(entry["at"]) + timedelta(seconds=entry["totalSeconds"])
        struck = max((injury.at for injury in injuries_done if injury.at < end), default=moment(entry["at"]))
        tally.seconds.append(entry["totalSeconds"] if is_warned(entry) else (end - struck).total_seconds())


def kinds(chance: random.Random) -> Iterator[str]:
    while True:
        yield chance.choice(("worker", "worker", "deleted", "forced", "cut"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chaos", action="store_true")
    parser.add_argument("--keep-cluster", action="store_true")
    chosen = parser.parse_args()
    test = "test_chaos" if chosen.chaos else "test_goodput"
    command = [sys.executable, "-m", "pytest", f"e2e/goodput.py::{test}", "-s"]
    command += ["--minutes", str(chosen.minutes), "--seed", str(chosen.seed)]
    return subprocess.run([*command, *(["--keep-cluster"] if chosen.keep_cluster else [])], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
