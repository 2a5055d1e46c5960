"""Probes and metrics over real HTTP."""

import aiohttp
from prometheus_client import CollectorRegistry, Gauge

from finetune_operator.edge.http import HttpServer


async def read(path: str, *, is_alive: bool = True, missing: tuple[str, ...] = ()) -> tuple[int, str]:
    registry = CollectorRegistry()
    Gauge("finetune_operator_leader", "1 on the leader", registry=registry).set(1)
    server = HttpServer(registry, is_alive=lambda: is_alive, missing=lambda: missing)
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()
    finally:
        await server.stop()


async def test_a_replica_is_ready_when_nothing_is_missing_and_says_what_is() -> None:
    assert await read("/readyz") == (200, "ok\n")
    assert await read("/readyz", missing=("pods",)) == (503, "waiting for pods\n")


async def test_a_replica_whose_feed_has_ended_is_restarted() -> None:
    assert await read("/healthz") == (200, "ok\n")
    assert (await read("/healthz", is_alive=False))[0] == 503


async def test_metrics_are_in_the_text_format() -> None:
    status, text = await read("/metrics")
    assert status == 200
    assert "finetune_operator_leader 1.0" in text
