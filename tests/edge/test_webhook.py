"""The webhook over real TLS sockets: the API server is answered whatever strangers do beside it."""

import asyncio
import json
import ssl
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from tests.builders.machine import HANG_SECONDS, slowness
from tests.coordinator.test_channel import until
from tests.kube.builders import job_object

from finetune_operator.coordinator.door import DoorLimits
from finetune_operator.edge.review import review
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.edge.webhook import MAX_BODY_BYTES, MAX_BYTES_IN_FLIGHT, Webhook, WebhookServer, _new_context, _reload
from finetune_operator.kube.certificates import rotate
from finetune_operator.metrics import OperatorMetrics

NOW = datetime.now(UTC)
API_SERVER, STRANGER = "127.0.0.1", "127.0.0.2"
PATH = "/validate-finetunejob"
SMALL = DoorLimits(total=12, of_address=10, waiting=6, waiting_of_address=4, greet_seconds=HANG_SECONDS)
HASTY = DoorLimits(greet_seconds=0.5)
TRUSTING = ssl._create_unverified_context()


def admission_review(**changes: object) -> dict[str, object]:
    request = {
        "uid": "705ab4f5",
        "operation": "CREATE",
        "resource": {"group": "finetune.dev", "version": "v1alpha1", "resource": "finetunejobs"},
        "object": job_object(),
        "oldObject": None,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | changes}


class World:
    def __init__(self, port: int, server) -> None:
        self.port, self.server = port, server

    async def open(self, address: str = STRANGER):
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=TRUSTING, local_addr=(address, 0))

    async def unfinished(self, num_bytes: int, address: str = STRANGER):
        """All of a request but its last byte, as far as it is taken."""
        reader, writer = await self.open(address)
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {num_bytes}\r\n\r\n".encode() + b" " * (num_bytes - 1))
        return reader, writer

    def client(self, address: str = API_SERVER) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=TRUSTING, local_addr=(address, 0), limit=0)
        return aiohttp.ClientSession(f"https://127.0.0.1:{self.port}", connector=connector)

    async def post(self, client: aiohttp.ClientSession, body: object = None) -> tuple[int, dict]:
        async with client.post(PATH, json=admission_review() if body is None else body) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def serving(tmp_path, validate=review, **options):
    certificate = ServingCertificate(tmp_path, ("webhook.ns.svc",))
    certificate.renew(rotate(None, NOW), NOW)
    server = WebhookServer(validate, **options)
    try:
        yield World(server.open("127.0.0.1", 0, certificate.ssl_context), server)
    finally:
        await server.close()


async def test_a_review_is_answered_with_its_uid_and_the_reason(tmp_path) -> None:
    bad = job_object(spec={"resources": {"nodes": {"min": 3, "max": 1}}})
    doubtful = job_object(spec={"training": {"globalBatchSize": 1}, "resources": {"nodes": {"max": 2}}})
    async with serving(tmp_path) as world, world.client() as client:
        status, good = await world.post(client)
        assert (status, good["kind"], good["response"]) == (200, "AdmissionReview", {"uid": "705ab4f5", "allowed": True})
        refused = (await world.post(client, admission_review(object=bad)))[1]["response"]
        assert (refused["allowed"], refused["status"]["code"]) == (False, 422)
        assert refused["status"]["message"].startswith("spec.resources.nodes: min 3")
        warned = (await world.post(client, admission_review(object=doubtful)))[1]["response"]
        assert "idle" in warned["warnings"][0]
        suspended = admission_review(operation="UPDATE", object=bad | {"spec": bad["spec"] | {"suspend": True}}, oldObject=bad)
        assert (await world.post(client, suspended))[1]["response"]["allowed"]
        assert (await world.post(client, admission_review(operation="DELETE", object=None)))[1]["response"]["allowed"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"request": 3},
        admission_review(uid=7),
        admission_review(uid="x" * 1000),
        admission_review(resource={"group": "apps", "resource": "deployments"}),
        json.loads('{"request":' + "[" * 500 + "]" * 500 + "}"),
    ],
)
async def test_what_is_no_review_is_refused_in_words(tmp_path, body) -> None:
    async with serving(tmp_path) as world, world.client() as client:
        status, answer = await world.post(client, body)
        assert status == 400
        assert "wanted" in answer["error"]


async def test_a_body_that_no_job_can_have_is_not_read(tmp_path) -> None:
    async with serving(tmp_path) as world:
        reader, writer = await world.open()
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
        assert b" 413 " in await asyncio.wait_for(reader.readline(), HANG_SECONDS)
        writer.close()


async def test_a_request_that_is_not_whole_in_time_ends(tmp_path) -> None:
    async with serving(tmp_path, limits=HASTY) as world:
        reader, _ = await world.unfinished(1 << 20)
        silent, _ = await world.open()
        for one in (reader, silent):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asyncio.wait_for(one.readexactly(1), 30)


async def test_the_bytes_of_all_requests_together_are_bounded_and_the_api_server_passes(tmp_path) -> None:
    async with serving(tmp_path) as world, world.client() as client:
        held = [await world.unfinished(1 << 20) for _ in range(48)]
        await until(lambda: sum(reader.at_eof() or reader.exception() is not None for reader, _ in held) >= 32)
        assert world.server.num_bytes_held <= MAX_BYTES_IN_FLIGHT
        assert (await world.post(client))[0] == 200
        for _, writer in held:
            writer.transport.abort()


async def test_strangers_that_take_all_room_give_way(tmp_path) -> None:
    async with serving(tmp_path, limits=SMALL) as world, world.client() as client:
        assert (await world.post(client))[0] == 200
        held = [await world.open(f"127.0.0.{2 + number % 5}") for number in range(30)]
        for _ in range(3):
            assert (await world.post(client))[0] == 200
            async with world.client() as another:
                assert (await world.post(another))[0] == 200
        for _, writer in held:
            writer.transport.abort()


async def test_what_the_webhook_turns_away_is_counted(tmp_path) -> None:
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry, version="1")

    def counted(what: str) -> float | None:
        return registry.get_sample_value("finetune_operator_refused_total", {"listener": "webhook", "what": what})

    refuse = partial(metrics.record_refused, "webhook")
    async with serving(tmp_path, limits=SMALL, on_refused=refuse) as world:
        held = [await asyncio.open_connection("127.0.0.1", world.port, local_addr=(STRANGER, 0)) for _ in range(7)]
        await until(lambda: counted("connection") == 3)
        for _, writer in held:
            writer.close()
    async with serving(tmp_path, limits=HASTY, on_refused=refuse) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        assert await asyncio.wait_for(reader.read(), HANG_SECONDS) == b""
        writer.close()
    assert [counted("connection"), counted("late"), counted("busy")] == [3, 1, 0]


async def test_a_kept_connection_has_the_time_of_a_first_request_for_each(tmp_path) -> None:
    async with serving(tmp_path, limits=HASTY) as world, world.client() as client:
        for _ in range(3):
            assert (await world.post(client))[0] == 200
            await asyncio.sleep(0.3)
        assert len(set(client.connector._conns)) == 1
        await asyncio.sleep(0.8)
        assert (await world.post(client))[0] == 200
        assert world.server.num_connections == 1


async def test_reviews_of_strangers_keep_no_review_of_the_api_server_waiting(tmp_path) -> None:
    def slow(body, old):
        time.sleep(0.3)
        return None, ()

    async with serving(tmp_path, slow) as world, world.client() as client:
        strangers = [world.client(f"127.0.0.{number}") for number in range(2, 6)]
        assert (await world.post(client))[0] == 200
        floods = [asyncio.create_task(world.post(one)) for one in strangers for _ in range(40)]
        waits = []
        await until(lambda: world.server.num_connections > 20)
        for _ in range(5):
            started = time.monotonic()
            assert (await world.post(client))[0] == 200
            waits.append(time.monotonic() - started)
        statuses = [status for status, _ in await asyncio.gather(*floods)]
        for one in strangers:
            await one.close()
    assert max(waits) < 1.5 * slowness()
    assert 503 in statuses, "whoever gets no turn hears it at once"


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path, monkeypatch, unused_tcp_port) -> None:
    monkeypatch.setattr("finetune_operator.edge.webhook.CERTIFICATE_READ_SECONDS", 0.05)
    certificate = ServingCertificate(tmp_path, ("webhook.ns.svc",))
    certificate.renew(rotate(None, NOW), NOW)
    webhook = Webhook(review)
    webhook.start(port=unused_tcp_port, certificate=certificate.certificate_file, key=certificate.key_file)

    async def served() -> str:
        return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", unused_tcp_port))

    try:
        await until(lambda: webhook.is_listening)
        first = await served()
        certificate.renew(rotate(None, NOW), NOW)
        async with asyncio.timeout(HANG_SECONDS):
            while await served() == first:  # noqa: ASYNC110 - another thread reads the files
                await asyncio.sleep(0.02)
    finally:
        await webhook.stop()
    assert not webhook.is_listening


async def test_a_body_of_no_length_is_read_to_the_limit_alone(tmp_path) -> None:
    async with serving(tmp_path) as world, world.client() as client:

        async def endless():
            for _ in range(40):
                yield b" " * (100 << 10)

        async with client.post(PATH, data=endless()) as answer:
            assert (answer.status, (await answer.json())["error"]) == (413, f"wanted at most {MAX_BODY_BYTES} bytes")
        assert world.server.num_bytes_held == 0


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("POST", "/"), ("PUT", PATH)])
async def test_what_is_no_post_to_its_path_is_refused(tmp_path, method, path) -> None:
    async with serving(tmp_path) as world, world.client() as client, client.request(method, path, json={}) as answer:
        assert answer.status == 404
        assert PATH in (await answer.json())["error"]


async def test_halves_of_two_certificates_are_not_served(tmp_path, caplog) -> None:
    certificate, other = ServingCertificate(tmp_path, ("a",)), tmp_path / "other"
    certificate.renew(rotate(None, NOW), NOW)
    other.mkdir()
    stranger = ServingCertificate(other, ("b",))
    stranger.renew(rotate(None, NOW), NOW)
    context = _new_context(certificate.certificate_file, certificate.key_file)
    assert not _reload(context, certificate.certificate_file, stranger.key_file)
    assert "the webhook's new certificate is not served yet" in caplog.text
    assert not _reload(context, tmp_path / "missing", stranger.key_file)
    assert _reload(context, stranger.certificate_file, stranger.key_file)


async def test_a_review_that_is_none_is_refused_without_ending_the_next(tmp_path) -> None:
    async with serving(tmp_path) as world, world.client() as client:
        async with client.post(PATH, data=b"{") as answer:
            assert (answer.status, (await answer.json())["error"]) == (400, "wanted JSON")
        assert (await world.post(client))[0] == 200
