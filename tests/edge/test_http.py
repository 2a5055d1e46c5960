"""Probes and metrics over real HTTP."""

import asyncio
import statistics
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from tests.builders.machine import HANG_SECONDS
from tests.coordinator.test_channel import until

from finetune_operator.coordinator.door import DoorLimits
from finetune_operator.edge.http import HTTP_LIMITS, HttpServer
from finetune_operator.metrics import OperatorMetrics


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


SMALL = DoorLimits(total=12, of_address=10, waiting=6, waiting_of_address=4, greet_seconds=HANG_SECONDS)


async def ask(port: int, path: str, address: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.read(), HANG_SECONDS)
    finally:
        writer.close()


@asynccontextmanager
async def serving(limits: DoorLimits = HTTP_LIMITS, **options):
    server = HttpServer(CollectorRegistry(), is_alive=lambda: True, missing=lambda: (), limits=limits, **options)
    try:
        yield server, await server.start("127.0.0.1", 0)
    finally:
        await server.stop()


async def test_probes_are_answered_while_strangers_hold_all_the_room() -> None:
    async with serving(SMALL) as (server, port):
        held = [await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{1 + number % 5}", 0)) for number in range(100)]
        for _ in range(3):
            assert b" 200 " in await ask(port, "/healthz")
            assert b" 200 " in await ask(port, "/readyz")
        assert server.num_connections <= SMALL.total
        for _, writer in held:
            writer.close()


async def test_what_the_port_of_metrics_turns_away_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry, version="1")

    def counted(what: str) -> float | None:
        return registry.get_sample_value("finetune_operator_refused_total", {"listener": "metrics", "what": what})

    refuse = partial(metrics.record_refused, "metrics")
    async with serving(SMALL, on_refused=refuse) as (_, port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SMALL.waiting_of_address + 5)]
        await until(lambda: counted("connection") == 5)
        for _, writer in held:
            writer.close()
    async with serving(replace(SMALL, greet_seconds=0.3), on_refused=refuse) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), HANG_SECONDS) == b""
        writer.close()
    assert [counted("connection"), counted("late"), counted("busy")] == [5, 1, 0]


async def test_a_connection_without_a_request_ends() -> None:
    async with serving(replace(SMALL, greet_seconds=0.3)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/of-no-interest"])
async def test_a_connection_has_one_request(path: str) -> None:
    async with serving() as (_, port):
        answer = await ask(port, path)
    assert b"connection: close" in answer.lower()


async def test_a_flood_of_requests_is_bounded_and_the_probes_pass(monkeypatch) -> None:
    monkeypatch.setattr("finetune_operator.coordinator.callers._STRANGERS_A_SECOND", 0.1)
    monkeypatch.setattr("finetune_operator.coordinator.callers._STRANGERS_AT_ONCE", 10)
    async with serving() as (_, port):
        answers = [await _answered(port, "127.0.0.2") for _ in range(80)]
        assert not all(answers)
        assert b" 200 " in await ask(port, "/healthz")


async def _answered(port: int, address: str) -> bool:
    try:
        return b" 404 " in await ask(port, "/none", address)
    except ConnectionError:
        return False


async def test_readers_beyond_the_room_are_told_so_and_the_others_are_served(monkeypatch) -> None:
    monkeypatch.setattr("finetune_operator.edge.http._MAX_READERS", 1)
    monkeypatch.setattr("finetune_operator.edge.http._MAX_WAITING", 1)
    registry = CollectorRegistry()
    registry.register(Slow(0.3))
    server = HttpServer(registry, is_alive=lambda: True, missing=lambda: ())
    port = await server.start("127.0.0.1", 0)
    try:
        answers = await asyncio.gather(*(ask(port, "/metrics") for _ in range(5)))
    finally:
        await server.stop()
    assert sorted(answer.split()[1] for answer in answers) == [b"200", b"200", b"503", b"503", b"503"]
    assert all(b"Retry-After: 1" in answer for answer in answers if b" 503 " in answer)
    assert server._num_readers == 0


async def test_a_reader_that_takes_nothing_is_cut_off_in_time(monkeypatch) -> None:
    monkeypatch.setattr("finetune_operator.edge.http.HTTP_READ_SECONDS", 0.3)
    async with serving() as (server, port):
        server._page._plain, server._page._fresh_until = b"x" * (32 << 20), float("inf")
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server._num_readers == 1)
        await until(lambda: server._num_readers == server.num_connections == 0)
        writer.transport.abort()
