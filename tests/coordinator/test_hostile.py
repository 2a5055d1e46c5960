"""The channel under attack, over real sockets: strangers cost little, and a member's noise is paid by that member."""

import asyncio
import json
import time
from dataclasses import replace

import aiohttp
import pytest
from tests.builders.machine import HANG_SECONDS, slowness
from tests.coordinator.test_channel import Bench, WallClock, by_name, until
from tests.coordinator.test_sessions import hello, progress

from finetune_contract.messages import Probed
from finetune_contract.orders import Peer, Start, parse_order
from finetune_contract.reports import StorageProblem, StorageState
from finetune_contract.values import render_message
from finetune_operator.coordinator.door import DoorLimits
from finetune_operator.coordinator.identity import MemberIdentity
from finetune_operator.coordinator.pace import Bucket, MemberPace
from finetune_operator.coordinator.server import Coordinator


@pytest.fixture(autouse=True)
def clients_that_answer_no_ping_in_time(monkeypatch) -> None:
    """aiohttp's client answers pings only while it is read from, and these tests are about other things."""
    monkeypatch.setattr("finetune_operator.coordinator.handshake.PING_SECONDS", 30.0)


SMALL = DoorLimits(total=12, of_address=10, waiting=6, waiting_of_address=4, greet_seconds=HANG_SECONDS)
HASTY = replace(SMALL, greet_seconds=0.5)


class Hostile:
    """A coordinator with small limits; `refused` is what it turned away."""

    def __init__(self, limits: DoorLimits = SMALL, authenticate=by_name) -> None:
        self.refused: list[str] = []
        self.woken: list[str] = []
        self.coordinator = Coordinator(
            clock=WallClock(), authenticate=authenticate, on_change=self.woken.append, on_refused=self.refused.append, limits=limits
        )

    async def __aenter__(self) -> "Hostile":
        self.port = await self.coordinator.start("127.0.0.1", 0)
        self.http = aiohttp.ClientSession()
        self.bench = Bench(self.coordinator, self.port, self.http, self.woken)
        return self

    async def __aexit__(self, *error) -> None:
        await self.http.close()
        await self.coordinator.stop()

    async def idle(self):
        return await asyncio.open_connection("127.0.0.1", self.port)


async def test_who_says_no_hello_in_time_is_disconnected() -> None:
    async with Hostile(HASTY) as world:
        reader, writer = await world.idle()
        assert await asyncio.wait_for(reader.read(), HANG_SECONDS) == b""
        assert world.refused == ["late"]
        async with world.bench.connect() as agent:
            assert (await agent.receive(timeout=HANG_SECONDS)).type in {
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            }
        writer.close()


async def test_strangers_of_one_address_leave_room_and_a_member_connects_beside_them() -> None:
    async with Hostile(DoorLimits(waiting_of_address=3, greet_seconds=HANG_SECONDS)) as world:
        sockets = [await world.idle() for _ in range(20)]
        await until(lambda: world.refused.count("connection") == 17)
        for _, writer in sockets:
            writer.close()
        async with world.bench.connect() as agent:
            await agent.send_str(render_message(hello()))
            await until(world.bench.session)


async def test_a_greeted_member_is_not_disconnected_by_the_deadline() -> None:
    async with Hostile(HASTY) as world, world.bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(world.bench.session)
        with pytest.raises(TimeoutError):
            await agent.receive(timeout=0.8)
        assert world.bench.session().is_connected


async def test_absurd_messages_are_counted_and_leave_the_session_as_it_was() -> None:
    async with Hostile() as world, world.bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        before = await until(world.bench.session)
        for value in (float("nan"), 1e308, -1, 10**400):
            await agent.send_str(json.dumps(json.loads(render_message(progress(7))) | {"step_seconds": value}))
        await until(lambda: world.refused.count("message") == 4)
        assert world.bench.session() == before


async def test_garbage_fills_no_log(caplog) -> None:
    started = time.monotonic()
    async with Hostile() as world, world.bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(world.bench.session)
        for number in range(90):
            await agent.send_str(f"{{garbage {number}" + "x" * 1000)
        await until(lambda: world.refused.count("message") == 90)
    lines = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert 1 <= len(lines) <= 5 + (time.monotonic() - started) / 10 + 1
    assert max(map(len, lines)) < 400
    assert "xxx" not in "".join(lines)


async def test_a_frame_beyond_the_limit_closes_the_channel() -> None:
    async with Hostile() as world, world.bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(world.bench.session)
        await agent.send_str("x" * 70_000)
        await until(lambda: not world.bench.session().is_connected)


async def test_probes_of_strangers_are_not_kept_and_a_flood_is_slowed() -> None:
    async with Hostile() as world, world.bench.connect("m1") as loud, world.bench.connect("m2") as quiet:
        for uid, socket in (("m1", loud), ("m2", quiet)):
            await socket.send_str(render_message(hello(uid)))
        await until(lambda: world.bench.session("m2"))
        flood = [render_message(Probed(peer_uid=f"stranger-{number}", reachable=False)) for number in range(2000)]
        sending = asyncio.create_task(_send_all(loud, flood))
        started = time.monotonic()
        await quiet.send_str(render_message(progress(5)))
        await until(lambda: world.bench.session("m2").run.progress)
        assert time.monotonic() - started < 2.0 * slowness()
        assert world.bench.session("m1").unreachable_peers == frozenset()
        assert len(world.woken) < 60
        sending.cancel()


async def _send_all(socket, frames) -> None:
    for frame in frames:
        await socket.send_str(frame)


async def test_a_store_that_flaps_changes_the_session_once_in_five_seconds() -> None:
    started = time.monotonic()
    async with Hostile() as world, world.bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(world.bench.session)
        states = []
        for number in range(40):
            reason = ("StorageUnavailable", "StorageRefused")[number % 2]
            await agent.send_str(render_message(StorageState(problem=StorageProblem(reason=reason, message=f"{number}"))))
            await asyncio.sleep(0.01)
            states.append(world.bench.session().run.storage)
        assert len({state.problem.message for state in states if state is not None}) <= 1 + (time.monotonic() - started) / 5


async def test_a_copied_token_does_not_push_the_member_out() -> None:
    async def at_home(token: str) -> MemberIdentity:
        return MemberIdentity(member_uid="m1", job_uid="job", addresses=frozenset({"127.0.0.1"}))

    async with Hostile(authenticate=at_home) as world, world.bench.connect() as real:
        await real.send_str(render_message(hello()))
        await until(world.bench.session)
        copied = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)))
        async with copied, copied.ws_connect(world.bench.url, headers={"Authorization": "Bearer m1"}) as thief:
            await thief.send_str(render_message(hello(formation=9)))
            assert (await thief.receive(timeout=HANG_SECONDS)).extra == "this member is connected already"
        assert world.refused == ["second"]
        assert world.bench.session().run.formation == 2
        async with world.bench.connect() as again:
            await again.send_str(render_message(hello(formation=3)))
            await until(lambda: world.bench.session().run.formation == 3)


async def test_a_copied_token_is_refused_while_the_channel_of_its_member_is_down() -> None:
    async def at_home(token: str) -> MemberIdentity:
        return MemberIdentity(member_uid="m1", job_uid="job", addresses=frozenset({"127.0.0.1"}))

    async with Hostile(authenticate=at_home) as world:
        async with world.bench.connect() as real:
            await real.send_str(render_message(hello()))
            await until(world.bench.session)
        await until(lambda: not world.bench.session().is_connected)
        copied = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)))
        async with copied, copied.ws_connect(world.bench.url, headers={"Authorization": "Bearer m1"}) as thief:
            await thief.send_str(render_message(hello(formation=9)))
            assert (await thief.receive(timeout=HANG_SECONDS)).extra == "this is no address of the member's pod"
        assert world.refused == ["elsewhere"]
        assert (world.bench.session().run.formation, world.bench.session().is_connected) == (2, False)
        async with world.bench.connect() as again:
            await again.send_str(render_message(hello(formation=3)))
            await until(lambda: world.bench.session().run.formation == 3)


async def test_a_member_whose_address_is_translated_on_the_way_comes_back() -> None:
    async def elsewhere(token: str) -> MemberIdentity:
        return MemberIdentity(member_uid="m1", job_uid="job", addresses=frozenset({"10.0.0.9"}))

    async with Hostile(authenticate=elsewhere) as world:
        for formation in (2, 3):
            async with world.bench.connect() as member:
                await member.send_str(render_message(hello(formation=formation)))
                await until(lambda wanted=formation: world.bench.session() and world.bench.session().run.formation == wanted)
            await until(lambda: not world.bench.session().is_connected)
        assert world.refused == []


async def test_all_members_of_a_formation_get_the_same_secret_and_nobody_else() -> None:
    peers = tuple(Peer(member_uid=uid, name=uid, address="10.0.0.1") for uid in ("m1", "m2"))

    def order(formation: int, rank: int) -> Start:
        return Start(term=1, formation=formation, node_rank=rank, peers=peers, master_address="10.0.0.1", master_port=29500)

    async with Hostile() as world, world.bench.connect("m1") as one, world.bench.connect("m2") as two:
        for uid, socket in (("m1", one), ("m2", two)):
            await socket.send_str(render_message(hello(uid)))
        await until(lambda: world.bench.session("m2") and world.bench.session("m1"))
        for formation in (3, 4):
            world.coordinator.send("m1", order(formation, 0))
            world.coordinator.send("m2", order(formation, 1))
        told = [parse_order((await socket.receive(timeout=HANG_SECONDS)).data) for socket in (one, one, two, two)]
        secrets = [start.store_secret for start in told]
        assert secrets[0] == secrets[2] != secrets[1] == secrets[3]
        assert len(secrets[0]) == 64
        assert secrets[0] not in repr(told)


def test_a_member_that_says_too_much_is_slowed_then_disconnected() -> None:
    pace, now = MemberPace(), 0.0
    waits = [pace.receive(100, now) for _ in range(200)]
    assert waits[:100] == [0.0] * 100
    assert 4.0 < waits[-1] <= 5.0
    for second in range(1, 12):
        pace.receive(100_000, float(second))
    assert pace.is_out_of_patience(11.5)
    assert MemberPace().receive(64 * 1024, 0.0) == 0.0


def test_a_bucket_gains_with_time_and_no_more_than_it_holds() -> None:
    bucket = Bucket(a_second=1.0, at_once=2.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]
