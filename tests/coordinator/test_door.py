"""The door of a port: strangers together have a share of the machine, whoever is known has a reserve, a connection costs little."""

import asyncio
import ssl
from datetime import UTC, datetime

from tests.builders.machine import HANG_SECONDS
from tests.coordinator.test_channel import until
from tests.coordinator.test_hostile import Hostile
from tests.coordinator.test_sessions import hello

from finetune_contract.values import render_message
from finetune_operator.coordinator.callers import Callers
from finetune_operator.coordinator.door import Door, DoorLimits
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.certificates import rotate

NOW = datetime.now(UTC)
STRANGERS = [f"10.0.0.{number}" for number in range(10)]


def let_in(callers: Callers, addresses: list[str], *, a_second: int, seconds: int, is_known: bool = False) -> int:
    """How many calls are let in; each address calls `a_second` times a second."""
    moments = [number / a_second for number in range(a_second * seconds)]
    return sum(callers.may_call(address, now, is_known=is_known) for now in moments for address in addresses)


def test_ten_strangers_together_have_a_share_of_the_machine() -> None:
    callers = Callers()
    let_in(callers, STRANGERS, a_second=50, seconds=20)
    after = [callers.may_call(address, 20 + number / 50, is_known=False) for number in range(500) for address in STRANGERS]
    assert sum(after) / 10 <= 160, "calls a second, of 500"


def test_an_address_with_a_member_is_let_in_while_strangers_call() -> None:
    callers = Callers()
    let_in(callers, STRANGERS, a_second=50, seconds=20)
    assert all(callers.may_call("10.0.1.1", 20.0, is_known=True) for _ in range(400))
    let_in(callers, STRANGERS, a_second=1000, seconds=1)
    assert all(callers.may_call("10.0.1.2", 21.0 + number, is_known=False) for number in range(100)), "who calls seldom passes"


def test_the_members_of_a_cluster_come_back_to_a_new_leader_at_once() -> None:
    callers = Callers()
    assert all(callers.may_call(f"10.1.{number // 250}.{number % 250}", 0.0, is_known=False) for number in range(5000))


def test_a_known_address_is_bounded_too() -> None:
    callers = Callers()
    assert let_in(callers, STRANGERS, a_second=100, seconds=10, is_known=True) < 10 * 10 * 100 / 3


async def test_strangers_of_many_addresses_leave_room_for_a_member(monkeypatch) -> None:
    monkeypatch.setattr("finetune_operator.coordinator.callers._STRANGERS_A_SECOND", 0.1)
    monkeypatch.setattr("finetune_operator.coordinator.callers._RARE_A_SECOND", 0.1)
    async with Hostile(DoorLimits()) as world, world.bench.connect() as agent:
        await agent.send_str(render_message(hello()))
        await until(world.bench.session)
        for number in range(500):
            _, writer = await asyncio.open_connection("127.0.0.1", world.port, local_addr=(f"127.0.0.{2 + number % 10}", 0))
            writer.transport.abort()
        assert "connection" in world.refused
        async with world.bench.connect("m2") as another:
            await another.send_str(render_message(hello("m2")))
            await until(lambda: world.bench.session("m2"))


async def test_the_newest_of_one_address_is_let_in_and_the_oldest_that_waits_gives_way() -> None:
    async with Hostile(DoorLimits(waiting_of_address=3, greet_seconds=HANG_SECONDS)) as world:
        first, _ = await world.idle()
        others = [await world.idle() for _ in range(3)]
        assert await asyncio.wait_for(first.read(), HANG_SECONDS) == b""
        assert world.refused == ["connection"]
        for _, writer in others:
            writer.close()


async def test_a_tls_connection_reserves_the_small_buffer(tmp_path) -> None:
    certificate = ServingCertificate(tmp_path, ("channel.ns.svc",))
    certificate.renew(rotate(None, NOW), NOW)
    made: list[asyncio.BaseTransport] = []

    class Noting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    door = Door(DoorLimits(), Noting, lambda _: None)
    port = door.open("127.0.0.1", 0, certificate.ssl_context)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl._create_unverified_context())
    try:
        await until(lambda: made)
        assert len(made[0]._ssl_protocol._ssl_buffer) == 32 * 1024
    finally:
        writer.transport.abort()
        await door.close()
