"""What every replica does now and then goes on whatever the API server answers."""

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from tests.coordinator.test_channel import WallClock, until
from tests.edge.test_settings import NEEDED
from tests.kube.api_server import ApiServer, drop, refusing
from tests.kube.builders import Strangers, job_object

from finetune_operator.coordinator.identity import TokenRefused
from finetune_operator.coordinator.server import Coordinator
from finetune_operator.edge import caretaker as caretaker_module
from finetune_operator.edge.caretaker import Certificates, Sweeper, until_done
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.settings import read_settings

HOOK = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/finetune-operator"
SECRET = "/api/v1/namespaces/ops/secrets/finetune-operator-ca"
JOB = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support-bot"


@pytest.fixture(autouse=True)
def hasty(monkeypatch) -> None:
    for name in ("CARETAKER_RETRY_SECONDS", "CERTIFICATE_CHECK_SECONDS"):
        monkeypatch.setattr(caretaker_module, name, 0.01)


@asynccontextmanager
async def going_on(work):
    task = asyncio.create_task(work)
    yield
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Clock:
    moment = datetime.now(UTC)

    def now(self) -> datetime:
        return self.moment


def certificates(api: ApiServer, folder, clock=None) -> Certificates:
    return Certificates(read_settings(NEEDED), api.client, ServingCertificate(folder, ("channel.ops.svc",)), clock or Clock())


async def test_what_must_be_done_is_tried_until_it_is(caplog) -> None:
    answers = iter([ApiError(403, "Forbidden", "secrets is forbidden"), OSError(28, "No space left on device"), None])

    async def action() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    await until_done("certificate authority", action)
    assert next(answers, "all") == "all"
    assert "certificate authority: 403 Forbidden: secrets is forbidden; trying again" in caplog.text


async def test_a_fault_of_ours_is_not_tried_again() -> None:
    async def action() -> None:
        raise LookupError("unexpected")

    with pytest.raises(LookupError):
        await until_done("x", action)


async def test_the_bundle_is_kept_in_the_webhook_and_in_the_channels(api, tmp_path) -> None:
    held = certificates(api, tmp_path)
    await held.refresh()
    api.put(HOOK, {"webhooks": [{"name": "v", "clientConfig": {}}]})
    num_refreshed = 0

    async def refresh_channels() -> None:
        nonlocal num_refreshed
        num_refreshed += 1
        if num_refreshed == 1:
            raise ApiError(403, "Forbidden", "no")

    async with going_on(held.keep(refresh_channels)):
        await until(lambda: num_refreshed > 2)
        before = api.objects[HOOK]["webhooks"]
        assert before[0]["clientConfig"]["caBundle"]
        api.put(HOOK, {"webhooks": [{"name": "v", "clientConfig": {}}]})
        await until(lambda: api.objects[HOOK]["webhooks"] == before)
        api.remove(SECRET)
        await until(lambda: SECRET in api.objects and api.objects[HOOK]["webhooks"] != before)


async def test_a_webhook_that_may_not_be_kept_up_to_date_is_told_once(api, tmp_path, caplog) -> None:
    held = certificates(api, tmp_path)
    await held.refresh()
    for _ in range(3):
        await held.publish()
    assert caplog.text.count("caBundle is not kept up to date: 404") == 1
    api.script("GET", HOOK, refusing(403, "Forbidden", "no"))
    await held.publish()
    assert caplog.text.count("caBundle is not kept up to date: 403") == 1
    api.put(HOOK, {"webhooks": []})
    await held.publish()
    api.remove(HOOK)
    await held.publish()
    assert caplog.text.count("caBundle is not kept up to date: 404") == 2, "it was well in between"


async def test_a_first_certificate_that_cannot_be_written_is_an_error(api, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        await certificates(api, tmp_path / "missing").refresh()


async def test_a_certificate_is_renewed_and_the_authority_rotated_in_time(api, tmp_path) -> None:
    clock = Clock()
    held = certificates(api, tmp_path, clock)
    await held.refresh()
    first, served = held.bundle, held._serving.certificate_file.read_text()
    await held.refresh()
    assert (held.bundle, held._serving.certificate_file.read_text()) == (first, served)
    clock.moment += timedelta(days=300)
    await held.refresh()
    assert held.bundle == first
    assert held._serving.certificate_file.read_text() != served
    clock.moment += timedelta(days=3000)
    await held.refresh()
    assert held.bundle.startswith(first)
    assert held.bundle.count("BEGIN CERTIFICATE") == 2


class Bench:
    def __init__(self, api: ApiServer) -> None:
        self.num_looks = 0
        self.jobs = ClusterJobs(
            api.client,
            None,  # type: ignore[arg-type]
            namespaces=(),
            on_change=lambda key: None,
            on_written=lambda job, status: None,
            strangers=Strangers(),
        )
        self.coordinator = Coordinator(clock=WallClock(), authenticate=self._refuse, on_change=lambda uid: None)
        self.sweeper = Sweeper(self.jobs, self.coordinator, look_at_all=self._look, random_source=random.Random(1))

    async def _refuse(self, token: str):
        raise TokenRefused("no")

    def _look(self) -> None:
        self.num_looks += 1


async def test_a_gap_is_swept_at_once_and_an_absent_api_server_is_waited_out(api) -> None:
    bench = Bench(api)
    api.put(JOB, job_object())
    api.script("GET", "/finetunejobs", drop, drop, refusing(500, "InternalError", "no"))
    async with going_on(bench.sweeper.run()):
        await asyncio.sleep(0.05)
        assert api.log == [], "nobody asked, and ten minutes are not over"
        bench.sweeper.ask()
        await until(lambda: bench.num_looks == 1)
        assert bench.jobs.keys() == (("team-a", "support-bot"),)
        api.remove(JOB)
        bench.sweeper.ask()
        await until(lambda: bench.num_looks == 2)
        assert bench.jobs.keys() == ()


async def test_without_a_gap_it_is_swept_now_and_then(api, monkeypatch) -> None:
    monkeypatch.setattr(caretaker_module, "SWEEP_SECONDS", 0.02)
    bench = Bench(api)
    async with going_on(bench.sweeper.run()):
        await until(lambda: bench.num_looks >= 3)
