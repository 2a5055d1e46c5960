"""Job after job is disturbed at random moments until there were faults enough: what chaos.py and kills.py share.

All that is random comes from the seed and the number of the job; moments are those of this machine, so a replay makes the same choices.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from examples.make_tiny_model import make_tiny_model
from tests.builders.machine import HANG_SECONDS
from tests.faults.ledger import LINES, Figures, record, result_of
from tests.faults.lives import Life, Scene, a_fault_document, leave, live, tell
from tests.faults.tally import Tally, keep_run
from tests.local.runs import ROWS

_LAST_SHARE = 0.8  # of a job's steps; later faults might meet its end
Disturb = Callable[[Scene, Random], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """`kinds` are drawn by their weights, `seconds_between` two faults of one job; a job meets 1 to `most_faults`, or as many as fit."""

    name: str
    seed: int
    kinds: dict[str, int]
    seconds_between: tuple[float, float]
    num_steps: int
    most_faults: int | None = None


async def kill_a_worker(scene: Scene, random: Random) -> bool:
    return signal_workers(scene, [random.choice(scene.run.members)], signal.SIGKILL)


async def kill_all_workers(scene: Scene, _random: Random) -> bool:
    return signal_workers(scene, scene.run.members, signal.SIGKILL)


async def stop_a_worker(scene: Scene, random: Random) -> bool:
    return signal_workers(scene, [random.choice(scene.run.members)], signal.SIGSTOP)


def signal_workers(scene: Scene, members, number: signal.Signals) -> bool:
    pids = [pid for member in members for pid in scene.run.worker_pids(member)]
    scene.strike()
    for pid in pids:
        tell(pid, number)
    return bool(pids)


async def kill_an_agent(scene: Scene, random: Random) -> bool:
    victim = random.choice(scene.run.members)
    scene.strike()
    scene.run.kill_member(victim)
    return True


async def kill_all_agents(scene: Scene, _random: Random) -> bool:
    scene.strike()
    for member in scene.run.members:
        scene.run.kill_member(member)
    return True


async def tell_a_member_to_end(scene: Scene, random: Random) -> bool:
    victim = random.choice(scene.run.members)
    scene.strike(is_warned=True)
    leave(victim)
    return True


async def delete_a_member(scene: Scene, random: Random) -> bool:
    victim = random.choice(scene.run.members)
    scene.strike()
    scene.run._members.end(victim, grace_seconds=0)
    return True


async def stop_an_agent_for_a_while(scene: Scene, random: Random) -> bool:
    pid = random.choice(scene.run.members).pid
    scene.strike()
    tell(pid, signal.SIGSTOP)
    await asyncio.sleep(8)
    tell(pid, signal.SIGCONT)
    return True


KINDS: dict[str, Disturb] = {
    "worker killed": kill_a_worker,
    "all workers killed": kill_all_workers,
    "worker stopped": stop_a_worker,
    "agent killed": kill_an_agent,
    "all agents killed": kill_all_agents,
    "SIGTERM to a member": tell_a_member_to_end,
    "member deleted without grace": delete_a_member,
    "agent stopped for 8 s": stop_an_agent_for_a_while,
}


async def run_job(campaign: Campaign, number: int, inputs: Path, folder: Path, tally: Tally, is_enough: Callable[[], bool]) -> Life:
    random = Random(f"{campaign.seed}-{number}")
    names, weights = list(campaign.kinds), list(campaign.kinds.values())

    async def disturb(scene: Scene) -> None:
        started = time.monotonic()
        num_left = float("inf") if campaign.most_faults is None else random.randint(1, campaign.most_faults)
        await scene.reach(3)
        while num_left > 0 and not is_enough():
            await asyncio.sleep(random.uniform(*campaign.seconds_between))
            step, is_ended = scene.run.step, scene.run.status.is_ended
            if is_ended or step > campaign.num_steps * _LAST_SHARE:
                return
            name = random.choices(names, weights)[0]
            if scene.run.members and await KINDS[name](scene, random):
                tally.kinds[name] += 1
                num_left -= 1
                sys.stdout.write(f"  {time.monotonic() - started:6.1f} s, step {step}: {name}\n")

    document = a_fault_document(folder, inputs, training={"maxSteps": campaign.num_steps})
    document["spec"]["restartPolicy"] = {"maxCrashesWithoutProgress": 100}  # random kills may well meet a job that made no step yet
    return await live(folder, document, disturb, deadline_seconds=2 * HANG_SECONDS)


async def run_campaign(campaign: Campaign, *, first_job: int, is_enough: Callable[[Tally], bool]) -> Tally:
    """Prints what it does; `is_enough` is asked before each fault and each job."""
    tally, number = Tally(), first_job
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name)
        (inputs / "rows.jsonl").write_text(ROWS.read_text())
        make_tiny_model(inputs / "qwen3", hidden_size=32)
        undisturbed = await run_job(campaign, 0, inputs, a_folder(inputs, "undisturbed"), tally, lambda: True)
        assert undisturbed.adapter_sha256, undisturbed.events
        while not is_enough(tally):
            sys.stdout.write(f"{campaign.name}, seed {campaign.seed}, job {number}\n")
            life = await run_job(campaign, number, inputs, a_folder(inputs, f"job-{number}"), tally, lambda: is_enough(tally))
            note(tally, number, life, undisturbed)
            number += 1
    return tally


def a_folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def note(tally: Tally, number: int, life: Life, undisturbed: Life) -> None:
    is_good = (life.adapter_sha256, life.sample_digest, life.num_living) == (undisturbed.adapter_sha256, undisturbed.sample_digest, 0)
    tally.num_jobs += 1
    tally.seconds += life.seconds_to_next_steps
    tally.most_lost = max(tally.most_lost, life.lost_steps)
    spent = life.status.goodput
    useful, wasted = spent.training_seconds, spent.recovering_seconds + spent.lost_seconds
    tally.goodput.append(useful / max(useful + wasted, 0.001))
    restarts = life.status.restarts
    sys.stdout.write(
        f"  {'same bytes' if is_good else 'NOT THE SAME'}; crashes {restarts.crashes}, disruptions {restarts.disruptions}, "
        f"at most {life.lost_steps} lost steps, goodput {tally.goodput[-1]:.0%}\n"
    )
    if not is_good:
        tally.bad_jobs.append(number)
        sys.stdout.writelines(f"    {event}\n" for event in life.events)
    sys.stdout.flush()


def finish(campaign: Campaign, tally: Tally, minutes: float) -> int:
    """Summary, ledger, exit code."""
    keep_run(campaign.name, campaign.seed, tally, minutes=minutes)
    figures, is_good = Figures(), not tally.bad_jobs and tally.num_faults > 0
    figures.tell(seconds=max(tally.seconds, default=None), lost_steps=tally.most_lost, same_bytes=not tally.bad_jobs)
    record(result_of(32, f"{campaign.name} on the local run", "local", figures, passed=is_good), LINES)
    for number in tally.bad_jobs:
        sys.stdout.write(f"not the same: replay with --seed {campaign.seed} --first-job {number}\n")
    return 0 if is_good else 1


def parse(description: str, amount: str, default: float) -> argparse.Namespace:
    sys.stdout.reconfigure(line_buffering=True)  # whoever waits for 20 minutes wants to see them go by
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(amount, type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first-job", type=int, default=1, help="begin with the choices of this job")
    return parser.parse_args()
