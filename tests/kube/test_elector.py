"""Electors over one lease: one leads, terms only grow, and a holder that cannot renew stops deciding before another may begin."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from tests.coordinator.test_channel import until
from tests.kube.api_server import ApiServer, hang, refusing

from finetune_operator.kube import lease as lease_module
from finetune_operator.kube.client import ApiClient
from finetune_operator.kube.lease import Elector, Leadership, transitions_of_first_lease

LEASES = "/apis/coordination.k8s.io/v1/namespaces/ops/leases"
LEASE = f"{LEASES}/finetune-operator"
STANDBY, LEADING, UNSURE = Leadership.STANDBY, Leadership.LEADING, Leadership.UNSURE


class Replica:
    def __init__(self, api: ApiServer, identity: str) -> None:
        self.client = ApiClient(api.credentials)
        self.task: asyncio.Task[None] | None = None
        self.told: list[Leadership] = []
        self.terms: list[int] = []
        self.renewed: list[float] = []
        self.elector = Elector(
            self.client,
            namespace="ops",
            name="finetune-operator",
            identity=identity,
            on_change=self.hear,
            on_renewed=self.renewed.append,
            random_source=random.Random(1),
        )

    def hear(self, leadership: Leadership, term: int) -> None:
        self.told.append(leadership)
        self.terms.append(term)

    @property
    def leads(self) -> bool:
        return self.elector.leadership is LEADING


@pytest.fixture(autouse=True)
def hasty(monkeypatch) -> None:
    for name, seconds in {"LEASE_RETRY_SECONDS": 0.02, "RENEW_DEADLINE_SECONDS": 1.0, "LEASE_TRY_SECONDS": 0.3}.items():
        monkeypatch.setattr(lease_module, name, seconds)


@asynccontextmanager
async def running(api: ApiServer, identity: str):
    replica = Replica(api, identity)
    replica.task = asyncio.create_task(replica.elector.run())
    try:
        yield replica
        assert not replica.task.done() or replica.task.cancelled(), replica.task.exception()
    finally:
        replica.task.cancel()
        await asyncio.gather(replica.task, return_exceptions=True)
        await replica.client.close()


def held(api: ApiServer, holder: str, *, seconds: int = 1, transitions: int = 7) -> None:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds, "leaseTransitions": transitions, "acquireTime": "then"}
    api.put(LEASE, {"metadata": {"labels": {"kept": "yes"}}, "spec": spec})


async def test_the_first_makes_the_lease_and_renews_it(api) -> None:
    async with running(api, "a") as one:
        await until(lambda: len(one.renewed) >= 3)
        assert (one.told, one.leads) == ([LEADING], True)
        spec = api.objects[LEASE]["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("a", 15)
        assert spec["renewTime"] > spec["acquireTime"], "it was acquired once"
        assert one.terms == [spec["leaseTransitions"] + 1]
        assert one.terms[0] >= transitions_of_first_lease(1_790_000_000)
        assert all(0 <= seconds < 30 for seconds in one.renewed)
    assert [verb for verb, path in api.log if path == LEASES] == ["POST"]


async def test_the_second_waits_and_takes_over_at_once_what_is_released_with_a_higher_term(api) -> None:
    async with running(api, "a") as one, running(api, "b") as two:
        await until(lambda: one.leads or two.leads)
        first, second = (one, two) if one.leads else (two, one)
        await until(lambda: api.log.count(("GET", LEASE)) > 8)
        assert second.told == []
        first.task.cancel()
        await first.elector.release()
        assert first.elector.leadership is STANDBY
        await until(lambda: second.leads)
        assert second.terms == [first.terms[0] + 1]


async def test_a_lease_that_nobody_renews_is_taken_after_its_time_by_our_own_clock(api) -> None:
    held(api, "dead", transitions=7)
    async with running(api, "a") as one:
        await until(lambda: api.log.count(("GET", LEASE)) > 5)
        assert one.told == [], "whatever its dates say"
        await until(lambda: one.leads)
        spec = api.objects[LEASE]["spec"]
        assert (spec["leaseTransitions"], one.terms) == (8, [9])
        assert spec["acquireTime"] != "then"
        assert api.objects[LEASE]["metadata"]["labels"] == {"kept": "yes"}


async def test_a_lease_that_somebody_renews_is_not_taken(api) -> None:
    async with running(api, "a") as one:
        for _ in range(30):
            held(api, "other", seconds=1)
            await asyncio.sleep(0.05)
        assert one.told == []


async def test_our_own_lease_of_before_is_renewed_with_its_term(api) -> None:
    held(api, "a", seconds=3600, transitions=7)
    async with running(api, "a") as one:
        await until(lambda: one.leads)
        assert (api.objects[LEASE]["spec"]["leaseTransitions"], one.terms) == (7, [8])
        assert api.objects[LEASE]["spec"]["acquireTime"] == "then"


async def test_of_two_that_write_at_once_one_leads(api) -> None:
    held(api, "")
    async with running(api, "a") as one, running(api, "b") as two:
        await until(lambda: len(one.renewed) + len(two.renewed) >= 6)
        assert [one.leads, two.leads].count(True) == 1
        assert len({*one.terms, *two.terms}) == 1
        assert api.objects[LEASE]["spec"]["leaseTransitions"] == 8


async def test_a_leader_without_an_api_server_is_unsure_in_time_and_goes_on_when_the_lease_is_still_its_own(api) -> None:
    async with running(api, "a") as one:
        await until(lambda: one.leads)
        api.script("*", "/leases", hang, always=True)
        await until(lambda: one.told == [LEADING, UNSURE])
        assert not one.leads
        api.unscript()
        await until(lambda: one.told == [LEADING, UNSURE, LEADING])
        assert len(set(one.terms)) == 1


async def test_a_short_absence_is_not_told(api) -> None:
    async with running(api, "a") as one:
        await until(lambda: one.leads)
        api.script("*", "/leases", *[refusing(500, "InternalError", "no")] * 3)
        num_renewed = len(one.renewed)
        await until(lambda: len(one.renewed) > num_renewed + 3)
        assert one.told == [LEADING]


async def test_who_finds_another_holder_steps_down(api) -> None:
    async with running(api, "a") as one:
        await until(lambda: one.leads)
        held(api, "b", seconds=3600)
        await until(lambda: one.told == [LEADING, STANDBY])
        num_writes = sum(verb == "PUT" for verb, _ in api.log)
        await one.elector.release()
        assert sum(verb == "PUT" for verb, _ in api.log) == num_writes, "what is not ours is not released"


async def test_a_lease_that_is_deleted_is_made_again_with_a_term_that_grows(api) -> None:
    held(api, "a", transitions=3)
    async with running(api, "a") as one:
        await until(lambda: one.leads)
        api.remove(LEASE)
        await until(lambda: LEASE in api.objects)
        await until(lambda: one.elector.term > 1_000_000)
        assert one.leads


async def test_a_release_that_is_refused_ends_nothing(api) -> None:
    one = Replica(api, "a")
    assert await one.elector._try_once()
    one.elector.leadership = LEADING
    api.script("PUT", LEASE, refusing(409, "Conflict", "changed"))
    await one.elector.release()
    assert one.elector.leadership is STANDBY
    await one.client.close()
