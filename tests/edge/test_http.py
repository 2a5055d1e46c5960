"""Probes and metrics over real HTTP."""

import asyncio
import statistics
import time

import aiohttp
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

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


class Slow(Collector):
    """A page that takes long to render."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.num_rendered = seconds, 0

    def collect(self):
        self.num_rendered += 1
        time.sleep(self.seconds)
        gauge = GaugeMetricFamily("many", "series", labels=["number"])
        for number in range(5000):
            gauge.add_metric([str(number)], 1)
        yield gauge


async def test_many_readers_cost_one_page_and_the_probes_do_not_wait_for_it() -> None:
    registry, slow = CollectorRegistry(), Slow(1.0)
    registry.register(slow)
    slow.num_rendered = 0
    server = HttpServer(registry, is_alive=lambda: True, missing=lambda: ())
    port = await server.start("127.0.0.1", 0)
    waits: list[float] = []
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

            async def scrape() -> tuple[str | None, int]:
                async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    return answer.headers.get("Content-Encoding"), (await answer.text()).count("many{")

            scrapes = asyncio.gather(*(scrape() for _ in range(16)))
            while not scrapes.done():
                started = time.monotonic()
                async with http.get(f"http://127.0.0.1:{port}/healthz") as answer:
                    assert answer.status == 200
                waits.append(time.monotonic() - started)
                await asyncio.sleep(0.02)
            assert await scrapes == [("gzip", 5000)] * 16
    finally:
        await server.stop()
    assert slow.num_rendered == 1
    assert statistics.median(waits) < 0.3, "far below the second that a page takes"
