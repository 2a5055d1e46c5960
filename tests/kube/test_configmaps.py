"""The ConfigMaps of a job are there when a member needs them, whoever deleted them since."""

import pytest
from tests.kube.builders import job, job_object
from tests.kube.fake_api import FakeApi

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.render_config import render_config
from finetune_operator.kube import configmaps
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.configmaps import JobConfigMaps, NameTakenByOther

MAPS = "/api/v1/namespaces/team-a/configmaps"
NAMES = [f"{MAPS}/support-bot-0a1b2c3d", f"{MAPS}/support-bot-0a1b2c3d-channel"]


class Bench:
    def __init__(self) -> None:
        self.api, self.bundle = FakeApi(), "ca-1"
        self.maps = JobConfigMaps(self.api, url="wss://channel", ca_bundle=lambda: self.bundle, render=render_config)  # type: ignore[arg-type]


@pytest.fixture
def later(monkeypatch):
    """Moves the process's clock past the moment for which a check is remembered."""
    moment = [100.0]
    monkeypatch.setattr(configmaps.time, "monotonic", lambda: moment[0])
    return lambda: moment.__setitem__(0, moment[0] + 60)


def running(**metadata) -> FineTuneJob:
    status = {"members": [{"serial": 1, "uid": "pod-1"}]}
    return FineTuneJob.model_validate(job_object(status=status, metadata=metadata))


async def test_a_gang_that_is_created_at_once_asks_once(later) -> None:
    bench = Bench()
    for _ in range(256):
        await bench.maps.ensure(job())
    assert sorted(bench.api.objects) == NAMES
    assert len(bench.api.log) == 2, "nobody waits for a look at what cannot be there"


@pytest.mark.parametrize("deleted", [NAMES[:1], NAMES[1:], NAMES])
async def test_what_was_deleted_is_made_again_before_the_next_creation(deleted, later) -> None:
    bench = Bench()
    await bench.maps.ensure(job())
    for name in deleted:
        del bench.api.objects[name]
    later()
    await bench.maps.ensure(job())
    assert sorted(bench.api.objects) == NAMES


async def test_what_was_deleted_is_made_again_by_the_sweep_without_a_creation(later) -> None:
    bench = Bench()
    await bench.maps.ensure_known((running(),))
    bench.api.objects.clear()
    later()
    await bench.maps.ensure_known((running(),))
    assert sorted(bench.api.objects) == NAMES


async def test_a_new_authority_reaches_members_at_once(later) -> None:
    bench = Bench()
    await bench.maps.ensure(job())
    bench.bundle = "ca-2"
    await bench.maps.ensure_known((running(),))
    assert bench.api.objects[NAMES[1]]["data"]["ca.crt"] == "ca-2"


async def test_a_job_that_cannot_be_helped_stops_no_other(later) -> None:
    bench = Bench()
    bench.api.broken["/namespaces/full/"] = ApiError(403, "Forbidden", "exceeded quota: configmaps")
    await bench.maps.ensure_known((running(namespace="full", uid="another"), running()))
    assert sorted(bench.api.objects) == NAMES


@pytest.mark.parametrize("owners", [None, [], [{"uid": "another"}], [{}], "mine"])
async def test_a_name_that_somebody_else_holds_is_told_by_name(owners, later) -> None:
    bench = Bench()
    bench.api.put(NAMES[0], {"metadata": {"name": "support-bot-0a1b2c3d", "ownerReferences": owners}, "data": {}})
    with pytest.raises(NameTakenByOther, match="support-bot-0a1b2c3d exists and does not belong to this job"):
        await bench.maps.ensure(job())
