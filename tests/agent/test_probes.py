"""A peer is reachable when its agent answers, not when its kernel does."""

import socket

from finetune_agent.member import probes


async def test_an_agent_that_lives_is_reachable() -> None:
    async with await probes.listen("127.0.0.1") as server:
        assert await probes.is_reachable(f"127.0.0.1:{probes.port_of(server)}")


async def test_an_agent_that_is_stopped_is_not_reachable_although_its_kernel_accepts(monkeypatch) -> None:
    monkeypatch.setattr(probes, "PROBE_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        assert not await probes.is_reachable(f"127.0.0.1:{stopped.getsockname()[1]}")


async def test_a_port_where_nobody_listens_is_not_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert not await probes.is_reachable(f"127.0.0.1:{port}")
