"""One tenant's load is paid by that tenant: real queue and passes; what a pass writes waits for a real turn."""

import asyncio
import time
from dataclasses import replace

import pytest
from tests.builders.machine import HANG_SECONDS
from tests.builders.observed import a_job
from tests.stories.world import World

from finetune_operator.decide.facts.priority import PriorityCaps, parse_caps
from finetune_operator.kube.turns import Lane, Pace, Turns
from finetune_operator.reconcile.passes import PassSettings
from finetune_operator.reconcile.ports import Key, Unavailable

NUM_JOBS = 200


def put(world: World, namespace: str, name: str, **spec) -> Key:
    job = a_job(name=name, uid=f"{namespace}-{name}", created_at=world.clock.now(), **spec)
    return world.jobs.put(job.model_copy(update={"metadata": job.metadata.model_copy(update={"namespace": namespace})})).key


def pace_the_writes(world: World) -> None:
    """50 writes a second for all, as the client has; pods of one namespace are refused by its quota."""
    turns, write, create = Turns(Pace(rate=50, burst=1)), world.jobs.write_status, world.pods.create

    async def paced_write(job, status):
        await turns.take(Lane.INTENT, job.metadata.namespace)
        return await write(job, status)

    async def paced_create(job, serial, decoration):
        await turns.take(Lane.INTENT, job.metadata.namespace)
        world.pods.refusal = "403 exceeded quota" if job.metadata.namespace == "noisy" else None
        return await create(job, serial, decoration)

    world.jobs.write_status, world.pods.create = paced_write, paced_create


async def until(check, within_seconds: float) -> float:
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < within_seconds, "not reached"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_a_flood_of_refused_jobs_does_not_delay_the_job_of_another_tenant() -> None:
    world = World()
    pace_the_writes(world)
    for number in range(NUM_JOBS):
        put(world, "noisy", f"job-{number}")
    stop = asyncio.Event()
    work = asyncio.create_task(world.reconciler.run_workers(stop))
    await until(lambda: world.jobs.num_writes > 20, within_seconds=HANG_SECONDS)
    key = put(world, "quiet", "bot")
    backlog = world.reconciler.queue.num_waiting
    world.reconciler.wake(key)
    writes = world.jobs.num_writes
    await until(lambda: len(world.pods.made) == 2, within_seconds=HANG_SECONDS)
    delay = world.jobs.num_writes - writes
    stop.set()
    await work
    assert backlog > NUM_JOBS // 2, "the flood was still there"
    assert delay <= 25, f"{delay} writes of others went first: at 50 a second, half a second"


async def test_a_change_of_one_waiting_job_wakes_only_those_whose_turn_changes() -> None:
    world = World(slots=2, total_steps=300)
    names = [f"job-{number:02d}" for number in range(12)]
    for name in names:
        world.apply(name)
    await world.until_step(3, names[0])
    queue = world.reconciler.queue
    while queue.num_waiting:
        queue.done(await queue.take())
    world.change_spec(names[8], suspend=True)
    await world.reconciler.run_pass(("default", names[8]))
    assert queue.num_waiting == 0, "it was not the turn of the one that left: nothing changes for the others"
    world.delete_job(names[1])
    await world.reconciler.run_pass(("default", names[1]))
    assert queue.num_waiting <= 1


async def run_until(world: World, check) -> None:
    stop = asyncio.Event()
    work = asyncio.create_task(world.reconciler.run_workers(stop))
    await until(check, within_seconds=HANG_SECONDS)
    stop.set()
    await work


async def test_a_job_whose_passes_fail_says_so_and_backs_off_and_a_change_of_its_spec_brings_it_back() -> None:
    world = World()
    world.apply("bot")
    observe, calls = world.agents.observe, []

    def broken(job_uid):
        calls.append(job_uid)
        raise ValueError("peer \x1b[31m is odd\nTraceback")

    world.agents.observe = broken
    await run_until(world, lambda: world.status().condition("Stalled") is not None)
    stalled = world.status().condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "InternalError")
    assert stalled.message.endswith("ValueError: peer  [31m is odd")
    failed = len(calls)
    for _ in range(50):
        world.reconciler.wake(("default", "bot"))
    assert world.reconciler.queue.num_waiting == 0
    assert len(calls) == failed == 3
    world.agents.observe = observe
    world.change_spec(priority=1)
    world.reconciler.wake(("default", "bot"))
    await run_until(world, lambda: world.status().condition("Stalled").reason != "InternalError")


async def test_an_api_server_that_is_away_is_no_fault_of_a_job() -> None:
    world = World()
    world.apply("bot")
    write, calls = world.jobs.write_status, []

    async def away(job, status):
        calls.append(job.key)
        if len(calls) < 6:
            raise Unavailable("no answer in time")
        return await write(job, status)

    world.jobs.write_status = away
    await run_until(world, lambda: world.status().phase != "")
    assert world.status().condition("Stalled").reason != "InternalError"


async def test_a_priority_above_the_policy_counts_as_the_cap_and_is_told() -> None:
    world = World(slots=2, total_steps=6)
    world.reconciler._settings = replace(world.reconciler._settings, caps=PriorityCaps(everywhere=5))
    world.apply("running")
    await world.until_step(1, "running")
    world.apply("greedy", priority=1_000_000)
    world.apply("urgent", priority=5)
    await world.tick(2)
    entries = {entry.key[1]: entry.priority for entry in world.reconciler._line.ordered()}
    assert entries["greedy"] == entries["urgent"] == 5
    assert world.reasons("greedy").count("PriorityCapped") == 1
    assert "allows 5" in world.status("greedy").warnings[0].message
    assert "PriorityCapped" not in world.reasons("urgent")
    assert PassSettings(trainer_image="t").caps.of(world.job("greedy")) == 1_000_000


def test_caps_are_read_for_all_and_by_namespace() -> None:
    assert parse_caps("10, team-a=20,team-b=-5") == PriorityCaps(everywhere=10, by_namespace={"team-a": 20, "team-b": -5})
    for bad in ("x", "=5", "team-a="):
        with pytest.raises(ValueError):
            parse_caps(bad)
