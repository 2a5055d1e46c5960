"""Fault 20: an agent is killed at an exact byte of an upload. The store never shows a commit that does not verify.

state  0 ..... cut ..... all   manifest  0 ... cut ... all
kill -9 in the middle, after the last byte of the state, in the manifest, after its last byte but before the answer
"""

import asyncio
from random import Random

import pytest
from tests.builders.machine import HANG_SECONDS
from tests.faults.s3_lives import assert_undisturbed, saver_of
from tests.faults.store_proxy import Meddling, Request

NUM_LIVES, KILLS_A_LIFE = 5, 4


def cuts(num_kills: int) -> list[tuple[str, float]]:
    """(which upload, share of its bytes): all kinds in turn, so that few kills know them."""
    random = Random(20)
    kinds = (
        lambda: ("state", random.random()),
        lambda: ("manifest", random.random()),
        lambda: ("state", 1.0),
        lambda: ("state", random.random()),
        lambda: ("manifest", 1.0),
    )
    return [kinds[number % len(kinds)]() for number in range(num_kills)]


class Killer:
    """Kills the saver at the next upload of a kind, at a share of its bytes."""

    def __init__(self, run, store) -> None:
        self.run, self.store, self.killed = run, store, asyncio.Event()
        self._cut: tuple[str, float] | None = None

    def arm(self, cut: tuple[str, float]) -> None:
        self._cut = cut
        self.killed.clear()

    def meddle(self, request: Request) -> Meddling:
        is_hit = self._cut is not None and (request.is_state if self._cut[0] == "state" else request.is_manifest)
        if not is_hit:
            return Meddling()
        share, self._cut = self._cut[1], None
        return Meddling(calls_at=int(share * request.num_bytes), calls=self._kill)

    def _kill(self) -> None:
        self.run.kill_member(saver_of(self.run))
        self.killed.set()


async def keep_looking(store, num_looks: list[int]) -> None:
    """Every commit that the store shows at any look must verify."""
    while True:
        num_looks.append(await asyncio.to_thread(store.check_commits))
        await asyncio.sleep(0.05)


@pytest.mark.fault(20)
@pytest.mark.parametrize("number", range(NUM_LIVES))
async def test_20_an_agent_is_killed_at_any_byte_of_its_uploads(number, store, undisturbed, inputs, figures):
    looks, furthest = [], 0
    own_cuts = cuts(NUM_LIVES * KILLS_A_LIFE)[number * KILLS_A_LIFE :][:KILLS_A_LIFE]

    async def kill_again_and_again(run):
        nonlocal furthest
        killer = Killer(run, store)
        store.proxy.meddle = killer.meddle
        looking = asyncio.create_task(keep_looking(store, looks))
        for cut in own_cuts:
            await run.wait_until("a commit of the newest formation", has_committed, deadline_seconds=HANG_SECONDS)
            # Without progress in between, the third crash is the end of a job.
            await run.wait_until("progress", lambda run, furthest=furthest: run.step > furthest, deadline_seconds=HANG_SECONDS)
            killed = run.status.last_formation
            killer.arm(cut)
            async with asyncio.timeout(30):
                await killer.killed.wait()
            furthest = run.step
            await run.wait_until(
                "the next formation", lambda run, killed=killed: run.status.last_formation > killed, deadline_seconds=HANG_SECONDS
            )
            assert not looking.done(), looking.result()
        looking.cancel()

    # One member: what it had in memory dies with it, and every resume is from the store.
    nodes = {"nodes": {"min": 1, "max": 1}}
    document = store.document(inputs, checkpoint={"minIntervalSeconds": 0}, resources=nodes)
    life = await store.live(document, kill_again_and_again, deadline_seconds=HANG_SECONDS)
    assert_undisturbed(life, undisturbed)
    assert store.check_commits() > 0
    assert len(looks) > KILLS_A_LIFE
    assert life.status.restarts.total == KILLS_A_LIFE
    assert all(recovery.resumed_step > 0 for recovery in life.status.recoveries), life.status.recoveries
    lost = max(recovery.lost_steps or 0 for recovery in life.status.recoveries)
    figures.tell(seconds=max(recovery.total_seconds for recovery in life.status.recoveries), lost_steps=lost, same_bytes=True)


def has_committed(run) -> bool:
    """The newest formation has."""
    return any(session.run.commit is not None and session.run.commit.formation == run.status.last_formation for session in run.sessions)
