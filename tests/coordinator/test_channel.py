"""The channel over real WebSockets: who may speak, what wakes a job, and that orders arrive."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import pytest
from tests.builders.machine import HANG_SECONDS
from tests.coordinator.test_sessions import hello, progress

from finetune_contract.messages import MemberPhase, PhaseChanged
from finetune_contract.orders import Commit, Exit, Probe, Stop, parse_order
from finetune_contract.values import render_message
from finetune_operator.coordinator.handshake import heartbeat_seconds
from finetune_operator.coordinator.identity import MemberIdentity, TokenRefused
from finetune_operator.coordinator.server import Coordinator


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


async def by_name(token: str) -> MemberIdentity:
    """Tokens of this test are member uids."""
    if not token.startswith("m"):
        raise TokenRefused("token refused: it is expired")
    return MemberIdentity(member_uid=token, job_uid="job")


class Bench:
    def __init__(self, coordinator: Coordinator, port: int, http: aiohttp.ClientSession, woken: list[str]) -> None:
        self.coordinator, self.http, self.woken = coordinator, http, woken
        self.url = f"http://127.0.0.1:{port}/channel"

    def connect(self, token: str = "m1", **options):
        return self.http.ws_connect(self.url, headers={"Authorization": f"Bearer {token}"}, **options)

    def session(self, uid: str = "m1"):
        return next((one for one in self.coordinator.observe("job") if one.member_uid == uid), None)


@asynccontextmanager
async def running():
    woken: list[str] = []
    coordinator = Coordinator(clock=WallClock(), authenticate=by_name, on_change=woken.append)
    port = await coordinator.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as http:
        yield Bench(coordinator, port, http, woken)
        await coordinator.stop()


async def until(check, seconds: float = HANG_SECONDS):
    async with asyncio.timeout(seconds):
        while not (answer := check()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return answer


async def test_an_agent_says_hello_and_takes_an_order() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        assert (await until(bench.session)).run.phase is MemberPhase.TRAINING
        bench.coordinator.send("m1", Exit(term=3, why="surplus"))
        assert parse_order((await agent.receive(timeout=HANG_SECONDS)).data) == Exit(term=3, why="surplus")


async def test_orders_arrive_in_order() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        for number in range(20):
            bench.coordinator.send("m1", Probe(term=1, peer_uid=str(number), address="10.0.0.2"))
        received = [parse_order((await agent.receive(timeout=HANG_SECONDS)).data).peer_uid for _ in range(20)]
        assert received == [str(number) for number in range(20)]


async def test_an_order_that_a_next_pass_repeats_at_once_goes_out_once() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        orders = [Exit(term=3, why="surplus"), Exit(term=3, why="surplus"), Exit(term=4, why="surplus")]
        for order in orders:
            bench.coordinator.send("m1", order)
        bench.coordinator.send("m1", Probe(term=4, peer_uid="end", address="10.0.0.2"))
        received = [parse_order((await agent.receive(timeout=HANG_SECONDS)).data) for _ in range(3)]
        assert [order.term for order in received] == [3, 4, 4]


@pytest.mark.parametrize(("header", "words"), [({}, "Bearer"), ({"Authorization": "Bearer old"}, "expired")])
async def test_a_refused_token_gets_401_with_the_reason(header, words) -> None:
    async with running() as bench, bench.http.get(bench.url, headers=header) as answer:
        assert answer.status == 401
        assert words in (await answer.json())["error"]


@pytest.mark.parametrize("stranger", [hello("m2"), hello("m1", job_uid="other")])
async def test_a_member_cannot_speak_for_another_one(stranger) -> None:
    async with running() as bench, bench.connect("m1") as agent:
        await agent.send_str(render_message(stranger))
        closed = await agent.receive(timeout=HANG_SECONDS)
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert closed.data == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert bench.coordinator.observe("job") == bench.coordinator.observe("other") == ()


async def test_hello_must_come_first() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(progress(1)))
        assert (await agent.receive(timeout=HANG_SECONDS)).extra == "the first message must be hello"


async def test_unknown_messages_are_ignored() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        for frame in ("not json", json.dumps({"type": "telepathy"}), json.dumps({"type": "progress", "step": "many"})):
            await agent.send_str(frame)
        await agent.send_str(render_message(PhaseChanged(phase=MemberPhase.STOPPED, formation=2)))
        await until(lambda: bench.session() and bench.session().run.phase is MemberPhase.STOPPED)


async def test_what_is_said_of_another_run_is_ignored() -> None:
    """A member of contract 1 names no run and means that of its job."""
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        for step, run in ((1, "job"), (2, None), (3, "other")):
            await agent.send_str(render_message(progress(step).model_copy(update={"run": run})))
        await agent.send_str(render_message(PhaseChanged(run="other", phase=MemberPhase.FINISHED, formation=9)))
        await agent.send_str(render_message(PhaseChanged(run="job", phase=MemberPhase.STOPPED, formation=2)))
        await until(lambda: bench.session() and bench.session().run.phase is MemberPhase.STOPPED)
        assert (bench.session().run.progress.step, bench.session().run.formation) == (2, 2)


async def test_orders_about_a_run_name_it() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        for order in (Stop(term=3, formation=2, why="grow"), Commit(term=3, deadline_seconds=5.0), Exit(term=3, why="surplus")):
            bench.coordinator.send("m1", order)
        told = [json.loads((await agent.receive(timeout=HANG_SECONDS)).data) for _ in range(3)]
        assert [order.get("run") for order in told] == ["job", "job", None]


async def test_a_lost_channel_is_seen_and_the_session_is_kept() -> None:
    async with running() as bench:
        async with bench.connect() as agent:
            await agent.send_str(render_message(hello()))
            await until(bench.session)
        await until(lambda: not bench.session().is_connected)
        assert bench.session().run.formation == 2


async def test_a_newer_connection_replaces_the_older() -> None:
    async with running() as bench, bench.connect() as older, bench.connect() as newer:
        await older.send_str(render_message(hello()))
        await until(bench.session)
        await newer.send_str(render_message(hello(formation=5)))
        await until(lambda: bench.session().run.formation == 5)
        assert (await older.receive(timeout=HANG_SECONDS)).extra == "replaced by a newer connection"
        bench.coordinator.send("m1", Exit(term=1, why="x"))
        assert isinstance(parse_order((await newer.receive(timeout=HANG_SECONDS)).data), Exit)
        assert bench.session().is_connected


async def test_forget_closes_the_channel_and_drops_the_session() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        bench.coordinator.forget("m1")
        assert bench.session() is None
        assert (await agent.receive(timeout=HANG_SECONDS)).type is aiohttp.WSMsgType.CLOSE
        assert bench.coordinator.num_connected == 0


async def test_an_order_to_an_absent_agent_is_dropped() -> None:
    async with running() as bench:
        bench.coordinator.send("nobody", Exit(term=1, why="x"))
        async with bench.connect("m1") as agent:
            await agent.send_str(render_message(hello()))
            await until(bench.session)
            with pytest.raises(TimeoutError):
                await agent.receive(timeout=0.05)


async def test_progress_wakes_a_job_once_a_second_and_a_phase_at_once() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(lambda: bench.woken == ["job"])
        started = time.monotonic()
        for step in range(1, 51):
            await agent.send_str(render_message(progress(step)))
        await until(lambda: bench.session().run.progress and bench.session().run.progress.step == 50)
        before = len(bench.woken)
        assert before <= 1 + int(time.monotonic() - started), "once a second, and not before a second is over"
        await agent.send_str(render_message(PhaseChanged(phase=MemberPhase.STOPPED, formation=2)))
        await until(lambda: len(bench.woken) > before)


async def test_the_last_progress_of_a_burst_wakes_the_job() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await agent.send_str(render_message(progress(1)))
        await until(lambda: len(bench.woken) == 2)


async def test_a_silent_peer_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr("finetune_operator.coordinator.handshake.PING_SECONDS", 0.1)
    async with running() as bench, bench.connect(autoping=False) as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        await until(lambda: not bench.session().is_connected)


async def test_stop_closes_every_channel_and_start_serves_again() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        await bench.coordinator.stop()
        assert (await agent.receive(timeout=HANG_SECONDS)).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}
        port = await bench.coordinator.start("127.0.0.1", 0)
        again = await bench.http.ws_connect(f"http://127.0.0.1:{port}/channel", headers={"Authorization": "Bearer m1"})
        await again.send_str(render_message(hello(formation=9)))
        await until(lambda: bench.session().run.formation == 9)


async def test_sessions_of_jobs_that_are_gone_are_forgotten() -> None:
    async with running() as bench, bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(bench.session)
        bench.coordinator.forget_jobs_except(frozenset({"job"}))
        assert bench.session() is not None
        bench.coordinator.forget_jobs_except(frozenset())
        assert bench.session() is None


def test_a_silent_member_is_found_soon_and_heartbeats_cost_the_same_at_any_number() -> None:
    assert 1.5 * heartbeat_seconds(1000) <= 2.0, "the peers are asked in time for 5 s in all"
    assert 5000 / heartbeat_seconds(5000) <= 1000, "pings in a second"
