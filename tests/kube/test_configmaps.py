"""The ConfigMaps of a job are there when a member needs them, whoever deleted them since."""

from types import SimpleNamespace

import pytest
from tests.kube.api_server import ApiServer, refusing
from tests.kube.builders import job, job_object

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.render_config import render_config
from finetune_operator.kube import configmaps
from finetune_operator.kube.configmaps import JobConfigMaps, NameTakenByOther

MAPS = "/api/v1/namespaces/team-a/configmaps"
NAMES = [f"{MAPS}/support-bot-0a1b2c3d", f"{MAPS}/support-bot-0a1b2c3d-channel"]


class Bench:
    def __init__(self, api: ApiServer) -> None:
        self.api, self.bundle = api, "ca-1"
        self.maps = JobConfigMaps(api.client, url="wss://channel", ca_bundle=lambda: self.bundle, render=render_config)


@pytest.fixture
def later(monkeypatch):
    """Moves the clock past the moment for which a check is remembered."""
    moment = [100.0]
    monkeypatch.setattr(configmaps, "time", SimpleNamespace(monotonic=lambda: moment[0]))
    return lambda: moment.__setitem__(0, moment[0] + 60)


def running(**metadata) -> FineTuneJob:
    status = {"members": [{"serial": 1, "uid": "pod-1"}]}
    return FineTuneJob.model_validate(job_object(status=status, metadata=metadata))


async def test_a_gang_that_is_created_at_once_asks_once(api, later) -> None:
    bench = Bench(api)
    for _ in range(256):
        await bench.maps.ensure(job())
    assert sorted(bench.api.objects) == NAMES
    assert len(bench.api.log) == 2, "nobody waits for a look at what cannot be there"


@pytest.mark.parametrize("deleted", [NAMES[:1], NAMES[1:], NAMES])
async def test_what_was_deleted_is_made_again_before_the_next_creation(api, deleted, later) -> None:
    bench = Bench(api)
    await bench.maps.ensure(job())
    for name in deleted:
        del bench.api.objects[name]
    later()
    await bench.maps.ensure(job())
    assert sorted(bench.api.objects) == NAMES


async def test_what_was_deleted_is_made_again_by_the_sweep_without_a_creation(api, later) -> None:
    bench = Bench(api)
    await bench.maps.ensure_known((running(),))
    bench.api.objects.clear()
    later()
    await bench.maps.ensure_known((running(),))
    assert sorted(bench.api.objects) == NAMES


async def test_a_new_authority_reaches_members_at_once(api, later) -> None:
    bench = Bench(api)
    await bench.maps.ensure(job())
    bench.bundle = "ca-2"
    await bench.maps.ensure_known((running(),))
    assert bench.api.objects[NAMES[1]]["data"]["ca.crt"] == "ca-2"


async def test_a_job_that_cannot_be_helped_stops_no_other(api, later) -> None:
    bench = Bench(api)
    api.script("*", "/namespaces/full/", refusing(403, "Forbidden", "exceeded quota: configmaps"), always=True)
    await bench.maps.ensure_known((running(namespace="full", uid="another"), running()))
    assert sorted(bench.api.objects) == NAMES


@pytest.mark.parametrize("owners", [None, [], [{"uid": "another"}], [{}], "mine"])
async def test_a_name_that_somebody_else_holds_is_told_by_name(api, owners, later) -> None:
    bench = Bench(api)
    bench.api.put(NAMES[0], {"metadata": {"name": "support-bot-0a1b2c3d", "ownerReferences": owners}, "data": {}})
    with pytest.raises(NameTakenByOther, match="support-bot-0a1b2c3d exists and does not belong to this job"):
        await bench.maps.ensure(job())
