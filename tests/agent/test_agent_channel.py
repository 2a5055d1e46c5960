"""The channel comes back by itself, says everything again, and never depends on what it was told before."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from random import Random

import pytest
from tests.agent.builders import a_config
from tests.agent.members import FakeCoordinator, write_channel
from tests.builders.machine import slowness

from finetune_agent.member.channel import Channel
from finetune_contract.messages import Hello, MemberPhase, Probed
from finetune_contract.orders import Exit, Probe
from finetune_contract.reports import Warned


def a_hello(term: int = 0) -> Hello:
    return Hello(
        member_uid="a",
        job_uid="j",
        address="127.0.0.1",
        port=1,
        num_devices=0,
        contract_version=1,
        oldest_contract_version=1,
        phase=MemberPhase.READY,
        formation=0,
        term=term,
    )


@pytest.fixture
async def channel(tmp_path, coordinator):
    """A running channel; `.orders` holds what it was ordered, `.hellos` what it will say."""
    orders: asyncio.Queue = asyncio.Queue()
    hellos = iter(a_hello(term) for term in range(100))
    (tmp_path / "token").write_text("first")
    running = Channel(
        folder=write_channel(tmp_path / "channel", coordinator.port),
        token_file=tmp_path / "token",
        random=Random(0),
    )
    running.orders = orders
    task = asyncio.create_task(running.run(hello=lambda: next(hellos), obey=orders.put_nowait))
    yield running
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_hello_is_said_again_with_the_state_of_the_moment_on_each_connection(channel, coordinator):
    await coordinator.until(lambda: coordinator.heard("a", Hello))
    await coordinator.sockets["a"].close()
    await coordinator.until(lambda: len(coordinator.heard("a", Hello)) == 2)
    assert [hello.term for hello in coordinator.heard("a", Hello)] == [0, 1]


async def test_token_and_url_are_read_anew_at_each_connect(channel, coordinator, tmp_path):
    await coordinator.until(lambda: coordinator.heard("a", Hello))
    other = FakeCoordinator()
    await other.open()
    (tmp_path / "token").write_text("rotated")
    write_channel(tmp_path / "channel", other.port)
    await coordinator.sockets["a"].close()
    await other.until(lambda: other.heard("a", Hello))
    assert (coordinator.tokens[0], other.tokens[0]) == ("first", "rotated")
    await other.close()


async def test_a_refused_token_is_tried_again_until_it_is_taken(channel, coordinator):
    coordinator.refuses = True
    await coordinator.until(lambda: coordinator.heard("a", Hello) or coordinator.tokens)
    if coordinator.sockets:
        await coordinator.sockets["a"].close()
    await coordinator.until(lambda: len(coordinator.tokens) >= 3)
    coordinator.refuses = False
    said = len(coordinator.heard("a", Hello))
    await coordinator.until(lambda: len(coordinator.heard("a", Hello)) > said)


async def test_a_coordinator_that_was_away_is_found_again(channel, coordinator):
    await coordinator.until(lambda: coordinator.heard("a", Hello))
    port = coordinator.port
    await coordinator.close()
    channel.send(Warned(reason="Lost", message="nobody listens"))
    again = FakeCoordinator()
    await again.open(port)
    await again.until(lambda: again.heard("a", Hello))
    channel.send(Warned(reason="IdleRanks", message="somebody listens"))
    await again.until(lambda: again.heard("a", Warned))
    assert [warned.reason for warned in again.heard("a", Warned)] == ["IdleRanks"]
    await again.close()


@contextlib.contextmanager
def an_address_that_is_silent() -> Iterator[int]:
    """A port whose queue is full: what wants to connect is neither taken nor refused, as at the address of a pod that is gone."""
    with socket.socket() as server, contextlib.ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        while True:
            client = waiting.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(server.getsockname())
            except TimeoutError:
                break
        yield server.getsockname()[1]


async def test_an_address_at_which_nothing_answers_is_not_waited_for_long(channel, coordinator, tmp_path):
    await coordinator.until(lambda: coordinator.heard("a", Hello))
    with an_address_that_is_silent() as port:
        write_channel(tmp_path / "channel", port)
        await coordinator.sockets["a"].close()
        await asyncio.sleep(0.3)  # it hangs in its first attempt
        assert not channel.is_connected
        write_channel(tmp_path / "channel", coordinator.port)
        await coordinator.until(lambda: len(coordinator.heard("a", Hello)) == 2, seconds=2 * slowness())


async def test_a_frame_that_is_no_order_is_left_out_and_the_next_is_taken(channel, coordinator):
    await coordinator.until(lambda: coordinator.heard("a", Hello))
    await coordinator.sockets["a"].send_str('{"type": "dance"}')
    await coordinator.order("a", Exit(term=1, why="over"))
    order = await asyncio.wait_for(channel.orders.get(), 5)
    assert order.type == "exit"


async def test_agents_reach_each_other_and_say_when_they_do_not(tmp_path, coordinator, begin):
    await begin(a_config(tmp_path), "a", "b")
    await coordinator.until(lambda: coordinator.heard("a", Hello) and coordinator.heard("b", Hello))
    hello = coordinator.heard("b", Hello)[0]
    await coordinator.order("a", Probe(term=1, peer_uid="b", address=f"{hello.address}:{hello.probe_port}"))
    await coordinator.until(lambda: coordinator.heard("a", Probed))
    await coordinator.order("a", Probe(term=1, peer_uid="c", address="127.0.0.1:1"))
    await coordinator.until(lambda: len(coordinator.heard("a", Probed)) == 2)
    assert [(probed.peer_uid, probed.reachable) for probed in coordinator.heard("a", Probed)] == [("b", True), ("c", False)]
