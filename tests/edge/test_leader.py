"""What a change of leadership does to channel, passes and the Service; the API server is away in most of it."""

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from tests.builders.machine import HANG_SECONDS
from tests.coordinator.test_channel import WallClock, until

from finetune_contract.backoff import Backoff
from finetune_operator.coordinator.identity import TokenRefused
from finetune_operator.coordinator.server import Coordinator
from finetune_operator.edge import leading
from finetune_operator.edge.leading import Leader
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.certificates import rotate
from finetune_operator.kube.client import Unreachable
from finetune_operator.kube.lease import Leadership
from finetune_operator.settings import Settings


class NoApiServer:
    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise Unreachable("no answer in time")


class Bench:
    """One leader; `log` holds what its passes did."""

    def __init__(self, folder, port: int, client: Any = None) -> None:
        self.log: list[str] = []
        self.synced = asyncio.Event()
        self.synced.set()
        authority = rotate(None, WallClock().now())
        serving = ServingCertificate(folder, ("localhost",))
        serving.renew(authority, WallClock().now())
        settings = Settings(namespace="ops", pod_name="op-1", pod_ip="10.0.0.1", trainer_image="t", channel_port=port)
        coordinator = Coordinator(clock=WallClock(), authenticate=self._refuse, on_change=lambda uid: None)
        self.port = port
        self.leader = Leader(
            settings,
            client or NoApiServer(),
            coordinator,
            serving,
            wait_synced=self.synced.wait,
            run_passes=self._passes,  # type: ignore[arg-type]
        )

    async def _refuse(self, token: str) -> Any:
        raise TokenRefused("token refused")

    async def _passes(self, term: int) -> None:
        self.log.append(f"start {term}")
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append("end")

    async def is_open(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False


@asynccontextmanager
async def running(folder, port: int, client: Any = None):
    bench = Bench(folder, port, client)
    task = asyncio.create_task(bench.leader.run())
    yield bench
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await bench.leader.step_down()


async def test_a_leader_opens_the_channel_and_runs_passes_with_its_term(tmp_path, unused_tcp_port) -> None:
    async with running(tmp_path, unused_tcp_port) as bench:
        assert not await bench.is_open()
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: bench.log == ["start 7"])
        assert await bench.is_open()


async def test_passes_wait_for_the_caches(tmp_path, unused_tcp_port) -> None:
    async with running(tmp_path, unused_tcp_port) as bench:
        bench.synced.clear()
        bench.leader.become(Leadership.LEADING, 7)
        bench.leader.become(Leadership.STANDBY, 7)
        bench.synced.set()
        bench.leader.become(Leadership.LEADING, 9)
        await until(lambda: bench.log)
        assert bench.log == ["start 9"]


async def test_an_unsure_leader_stops_deciding_and_keeps_its_agents(tmp_path, unused_tcp_port) -> None:
    async with running(tmp_path, unused_tcp_port) as bench:
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: bench.log == ["start 7"])
        bench.leader.become(Leadership.UNSURE, 7)
        await until(lambda: bench.log == ["start 7", "end"])
        assert await bench.is_open()
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: bench.log[2:] == ["start 7"])


async def test_who_lost_the_lease_closes_the_channel(tmp_path, unused_tcp_port) -> None:
    async with running(tmp_path, unused_tcp_port) as bench:
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: bench.log == ["start 7"])
        bench.leader.become(Leadership.STANDBY, 7)
        await until(lambda: bench.log == ["start 7", "end"])
        async with asyncio.timeout(HANG_SECONDS):
            while await bench.is_open():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_an_error_of_the_passes_ends_the_process(tmp_path, unused_tcp_port) -> None:
    bench = Bench(tmp_path, unused_tcp_port)

    async def broken(term: int) -> None:
        raise LookupError("unexpected")

    bench.leader._run_passes = broken
    bench.leader.become(Leadership.LEADING, 7)
    with pytest.raises(ExceptionGroup) as ended:
        await bench.leader.run()
    assert ended.group_contains(LookupError)
    await bench.leader.step_down()


async def test_the_channel_speaks_tls_only(tmp_path, unused_tcp_port) -> None:
    async with running(tmp_path, unused_tcp_port) as bench, aiohttp.ClientSession() as http:
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: bench.log)
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://127.0.0.1:{unused_tcp_port}/channel")


SLICE = "/apis/discovery.k8s.io/v1/namespaces/ops/endpointslices/finetune-channel"


async def test_a_slice_that_somebody_deletes_is_published_again_and_emptied_at_the_end(api, tmp_path, unused_tcp_port, monkeypatch) -> None:
    monkeypatch.setattr(leading, "PUBLISH_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(leading, "_BACKOFF", Backoff(first_seconds=0.01, longest_seconds=0.01))
    async with running(tmp_path, unused_tcp_port, api.client) as bench:
        await asyncio.sleep(0.05)
        assert api.log == [], "a standby publishes nothing"
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: SLICE in api.objects)
        api.remove(SLICE)
        await until(lambda: SLICE in api.objects)
        assert api.objects[SLICE]["endpoints"][0]["addresses"] == ["10.0.0.1"]
        bench.leader.become(Leadership.UNSURE, 7)
        await until(lambda: "end" in bench.log)
        api.remove(SLICE)
        await asyncio.sleep(0.1)
        assert SLICE not in api.objects, "whoever is unsure publishes nothing"
        bench.leader.become(Leadership.LEADING, 7)
        await until(lambda: SLICE in api.objects)
    assert api.objects[SLICE]["endpoints"] == []


async def test_a_standby_that_never_led_leaves_the_slice_of_the_leader_alone(api, tmp_path, unused_tcp_port) -> None:
    async with running(tmp_path, unused_tcp_port, api.client):
        pass
    assert api.log == []
