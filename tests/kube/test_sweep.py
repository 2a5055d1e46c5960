"""Jobs over HTTP: the cache is filled whole, a sweep finds what the feed missed, and a status is written only over what was read."""

import pytest
from tests.kube.api_server import ApiServer, drop, refusing
from tests.kube.api_store import place_of
from tests.kube.builders import UID, Strangers, job_object, merged

from finetune_operator.kube.client import ApiError, Unreachable
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.reconcile.ports import Conflict, Gone, Written

KEY = ("team-a", "support-bot")
GROUP = "/apis/finetune.dev/v1alpha1"
PATH = f"{GROUP}/namespaces/team-a/finetunejobs/support-bot"


class Bench:
    def __init__(self, api: ApiServer, *namespaces: str) -> None:
        self.api = api
        self.woken: list[tuple[str, str]] = []
        self.written: list[tuple[str, str]] = []
        self.jobs = ClusterJobs(
            api.client,
            None,  # type: ignore[arg-type]
            namespaces=namespaces,
            on_change=self.woken.append,
            on_written=lambda job, status: self.written.append((job.status.phase, status.phase)),
            strangers=Strangers(),
        )

    async def write(self, phase: str):
        job = self.jobs.get(KEY)
        return await self.jobs.write_status(job, job.status.model_copy(update={"phase": phase}))


def make(api: ApiServer, name: str = "support-bot", namespace: str = "team-a", uid: str = UID, **changes) -> dict:
    item = job_object(metadata={"name": name, "namespace": namespace, "uid": uid}, **changes)
    return api.put(f"{GROUP}/namespaces/{namespace}/finetunejobs/{name}", item)


async def filled(api: ApiServer, *namespaces: str) -> Bench:
    bench = Bench(api, *namespaces)
    await bench.jobs.fill()
    bench.woken.clear()
    return bench


def namespaces(bench: Bench) -> set[str]:
    known = bench.jobs.keys()
    return {namespace for namespace, _ in known}


async def test_all_namespaces_or_the_named_ones_are_read(api) -> None:
    for namespace in ("team-a", "team-b", "team-c"):
        make(api, namespace=namespace, uid=namespace)
    assert namespaces(await filled(api)) == {"team-a", "team-b", "team-c"}
    bench = await filled(api, "team-a", "team-c")
    assert namespaces(bench) == {"team-a", "team-c"}
    assert bench.jobs.uids() == {"team-a", "team-c"}
    assert bench.jobs.key_of("team-c") == ("team-c", "support-bot")


async def test_a_cluster_without_the_definition_is_told_and_not_empty(api) -> None:
    api.script("GET", "/finetunejobs", refusing(404, "NotFound", "the server could not find the requested resource"))
    with pytest.raises(ApiError, match="404"):
        await Bench(api).jobs.fill()


async def test_a_sweep_without_anything_missed_reads_names_alone_and_wakes_nobody(api) -> None:
    make(api)
    bench = await filled(api)
    await bench.jobs.sweep()
    assert bench.woken == []
    assert [verb for verb, _ in api.log] == ["LIST", "LIST"]
    assert "PartialObjectMetadataList" in api.requests[-1].headers["Accept"]


async def test_a_sweep_finds_the_deleted_the_new_and_the_changed(api) -> None:
    make(api)
    make(api, "goes", uid="goes")
    make(api, "replaced", uid="before")
    bench = await filled(api)
    api.remove(f"{GROUP}/namespaces/team-a/finetunejobs/goes")
    api.remove(f"{GROUP}/namespaces/team-a/finetunejobs/replaced")
    make(api, "replaced", uid="after")
    make(api, "comes", uid="comes")
    make(api, status={"phase": "Training"})
    await bench.jobs.sweep()
    assert bench.jobs.uids() == {UID, "after", "comes"}
    assert bench.jobs.get(KEY).status.phase == "Training"
    assert set(bench.woken) == {("team-a", name) for name in ("goes", "replaced", "comes", "support-bot")}


async def test_a_sweep_of_one_namespace_forgets_nothing_of_another(api) -> None:
    make(api, namespace="team-b", uid="b")
    bench = await filled(api, "team-a", "team-b")
    await bench.jobs.sweep()
    assert bench.jobs.uids() == {"b"}
    api.remove(f"{GROUP}/namespaces/team-b/finetunejobs/support-bot")
    await bench.jobs.sweep()
    assert bench.jobs.uids() == frozenset()


async def test_a_job_that_was_made_after_the_list_is_no_ghost(api) -> None:
    bench = await filled(api)

    async def late(request):
        answer = api._list(request, place_of(f"{GROUP}/finetunejobs"))
        bench.jobs.apply("ADDED", make(api))
        return answer

    api.script("GET", "limit=", late)
    await bench.jobs.sweep()
    assert bench.jobs.keys() == (KEY,)


async def test_a_job_that_goes_between_list_and_look_is_forgotten(api) -> None:
    make(api)
    bench = await filled(api)
    make(api, status={"phase": "Training"})
    api.script("GET", "/support-bot", refusing(404, "NotFound", "gone"))
    await bench.jobs.sweep()
    assert bench.jobs.keys() == ()
    bench.jobs.apply("MODIFIED", api.objects[PATH])
    assert bench.jobs.keys() == (), "its uid never comes back"


async def test_an_absent_api_server_forgets_nothing(api) -> None:
    make(api)
    bench = await filled(api)
    make(api, status={"phase": "Training"})
    for method, part, error in (("GET", "limit=", Unreachable), ("GET", "/support-bot", Unreachable)):
        api.script(method, part, drop, drop)
        with pytest.raises(error):
            await bench.jobs.sweep()
    api.script("GET", "/support-bot", refusing(403, "Forbidden", "no"))
    with pytest.raises(ApiError, match="403"):
        await bench.jobs.sweep()
    assert bench.jobs.keys() == (KEY,)


async def test_a_status_is_written_once_and_the_answer_is_what_is_known(api) -> None:
    make(api)
    bench = await filled(api)
    answer = await bench.write("Training")
    assert isinstance(answer, Written)
    assert answer.job == bench.jobs.get(KEY)
    assert (api.objects[PATH]["status"]["phase"], bench.written) == ("Training", [("", "Training")])
    assert bench.woken == [KEY]
    assert await bench.write("Training") == Written(job=bench.jobs.get(KEY)), "nothing to write"
    assert [verb for verb, _ in api.log] == ["LIST", "PATCH"]


async def test_a_write_over_what_somebody_else_wrote_changes_nothing_and_reads_again(api) -> None:
    make(api)
    bench = await filled(api)
    before = bench.jobs.get(KEY)
    make(api, spec={"priority": 7}, status={"phase": "Preparing"})
    assert await bench.write("Training") == Conflict()
    assert (api.objects[PATH]["status"]["phase"], bench.jobs.get(KEY).spec.priority, bench.written) == ("Preparing", 7, [])
    assert await bench.jobs.write_status(before, before.status.model_copy(update={"phase": "Failed"})) == Conflict()
    assert [verb for verb, _ in api.log] == ["LIST", "PATCH", "GET"], "an older version than the known one is not sent"


@pytest.mark.parametrize("is_replaced", [False, True], ids=["gone", "a namesake"])
async def test_a_write_to_a_job_that_is_gone_says_so(api, is_replaced) -> None:
    make(api)
    bench = await filled(api)
    job = bench.jobs.get(KEY)
    api.remove(PATH)
    if is_replaced:
        make(api, uid="namesake")
    assert await bench.write("Training") == Gone()
    assert bench.jobs.uids() == ({"namesake"} if is_replaced else set())
    assert await bench.jobs.write_status(job, job.status) == Gone(), "without a request"
    assert len(api.log) == 3


async def test_another_refusal_of_a_write_is_raised(api) -> None:
    make(api)
    bench = await filled(api)
    api.script("PATCH", "/status", refusing(403, "Forbidden", "no"))
    with pytest.raises(ApiError, match="403"):
        await bench.write("Training")


async def test_a_field_that_is_refused_is_left_out_and_nothing_more_is_sent_for_it(api) -> None:
    make(api)
    bench = await filled(api)
    api.script("PATCH", "/status", refusing(422, "Invalid", "odd", fields=("status.phase",)))
    assert await bench.write("Training") == Written(job=bench.jobs.get(KEY))
    assert api.objects[PATH]["status"].keys() >= {"pinned", "members"}, "the rest is written"
    assert "phase" not in api.objects[PATH]["status"]
    assert await bench.write("Training") == Written(job=bench.jobs.get(KEY))
    assert [verb for verb, _ in api.log] == ["LIST", "PATCH", "PATCH"]


async def test_the_spec_of_a_user_and_our_status_do_not_touch_each_other(api) -> None:
    """A user's tool applies what it holds, an old status included."""
    make(api)
    bench = await filled(api)
    await bench.write("Training")
    mine = merged(job_object(), {"metadata": {"uid": None, "resourceVersion": None}, "spec": {"priority": 5}})
    await api.client.request("PATCH", PATH, body=mine, params={"fieldManager": "argocd"}, content_type="application/apply-patch+yaml")
    await bench.jobs.sweep()
    job = bench.jobs.get(KEY)
    assert (job.spec.priority, job.status.phase, api.objects[PATH]["metadata"]["generation"]) == (5, "Training", 2)
