"""The API server of these tests behaves as a real one does where clients can tell; e2e holds the same code to a real one."""

import asyncio
from typing import Any

import pytest
from tests.kube.api_server import TOKEN, ApiServer
from tests.kube.api_store import selects
from tests.kube.builders import UID, job_object, merged, pod_object

from finetune_operator.kube.client import JSON, MERGE_PATCH, STRATEGIC_MERGE_PATCH, ApiError

PODS = "/api/v1/namespaces/team-a/pods"
ONE = f"{PODS}/one"
MAPS = "/api/v1/namespaces/team-a/configmaps"
JOB = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support-bot"
APPLY, JSON_PATCH = "application/apply-patch+yaml", "application/json-patch+json"


async def patch(api: ApiServer, path: str, body: Any, kind: str = MERGE_PATCH, **params: str) -> dict[str, Any]:
    return await api.client.request("PATCH", path, body=body, content_type=kind, params=params)


async def refusal(answer: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        await answer
    return caught.value.status, caught.value.reason


async def test_what_is_created_has_an_identity_and_no_status_and_its_name_is_taken(api) -> None:
    made = await api.client.request("POST", PODS, body=pod_object(metadata={"name": "one", "uid": None, "resourceVersion": None}))
    assert made["metadata"]["uid"]
    assert made["metadata"]["resourceVersion"] == str(api.version)
    assert "status" not in made
    assert await refusal(api.client.request("POST", PODS, body={"metadata": {"name": "one"}})) == (409, "AlreadyExists")
    assert await refusal(api.client.request("POST", PODS, body={"metadata": {"name": "x", "resourceVersion": "1"}})) == (400, "BadRequest")
    assert await refusal(api.client.request("GET", f"{PODS}/two")) == (404, "NotFound")


async def test_a_write_with_an_older_version_or_another_uid_conflicts(api) -> None:
    before = api.put(f"{MAPS}/m", {"data": {"a": "1"}})
    await api.client.request("PUT", f"{MAPS}/m", body=merged(before, {"data": {"a": "2"}}))
    assert await refusal(api.client.request("PUT", f"{MAPS}/m", body=before)) == (409, "Conflict")
    assert await refusal(patch(api, f"{MAPS}/m", {"metadata": {"resourceVersion": "1"}})) == (409, "Conflict")
    assert await refusal(patch(api, f"{MAPS}/m", {"metadata": {"uid": "other"}})) == (409, "Conflict")
    assert api.objects[f"{MAPS}/m"]["data"] == {"a": "2"}
    assert await refusal(api.client.request("PUT", f"{MAPS}/n", body=before)) == (404, "NotFound")


async def test_a_write_that_changes_nothing_makes_no_version(api) -> None:
    api.put(f"{MAPS}/m", {"data": {"a": "1"}})
    version = api.version
    answer = await patch(api, f"{MAPS}/m", {"data": {"a": "1"}})
    assert (api.version, answer["metadata"]["resourceVersion"]) == (version, str(version))


async def test_status_and_spec_are_written_apart(api) -> None:
    api.put(JOB, job_object(status={"phase": "Training"}))
    await patch(api, f"{JOB}/status", {"spec": {"priority": 3}, "status": {"phase": "Failed"}})
    assert ("priority" in api.objects[JOB]["spec"], api.objects[JOB]["status"]["phase"]) == (False, "Failed")
    await patch(api, JOB, {"spec": {"priority": 3}, "status": {"phase": "Complete"}})
    assert (api.objects[JOB]["spec"]["priority"], api.objects[JOB]["status"]["phase"]) == (3, "Failed")
    assert api.objects[JOB]["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("operations", "data"),
    [
        ([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}], {"a": "2"}),
        ([{"op": "add", "path": "/data/b", "value": "2"}, {"op": "remove", "path": "/data/a"}], {"b": "2"}),
        ([{"op": "add", "path": "/data/x~1y", "value": "2"}], {"a": "1", "x/y": "2"}),
        ([{"op": "replace", "path": "/data/a", "value": "2"}, {"op": "test", "path": "/data/a", "value": "1"}], None),
        ([{"op": "remove", "path": "/data/b"}], None),
        ([{"op": "add", "path": "/nothing/b", "value": "2"}], None),
    ],
)
async def test_a_json_patch_is_applied_whole_or_not_at_all(api, operations, data) -> None:
    api.put(f"{MAPS}/m", {"data": {"a": "1"}})
    if data is None:
        assert await refusal(patch(api, f"{MAPS}/m", operations, JSON_PATCH)) == (422, "Invalid")
    else:
        await patch(api, f"{MAPS}/m", operations, JSON_PATCH)
    assert api.objects[f"{MAPS}/m"]["data"] == (data or {"a": "1"})


async def test_a_patch_of_another_kind_is_refused(api) -> None:
    api.put(f"{MAPS}/m", {})
    assert await refusal(patch(api, f"{MAPS}/m", {}, JSON)) == (415, "UnsupportedMediaType")


async def test_lists_in_a_strategic_patch_are_merged_by_name(api) -> None:
    api.put(ONE, {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}})
    await patch(api, ONE, {"spec": {"containers": [{"name": "b", "image": "2"}]}}, STRATEGIC_MERGE_PATCH)
    assert api.objects[ONE]["spec"]["containers"] == [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]


async def test_an_apply_takes_what_nobody_else_holds_and_the_rest_by_force_alone(api) -> None:
    async def apply(manager: str, data: dict[str, str], **params: str) -> dict[str, str]:
        return (await patch(api, f"{MAPS}/m", {"data": data}, APPLY, fieldManager=manager, **params))["data"]

    assert await apply("flux", {"a": "1", "b": "1"}) == {"a": "1", "b": "1"}
    assert await apply("me", {"b": "1", "c": "1"}) == {"a": "1", "b": "1", "c": "1"}
    assert await refusal(apply("me", {"a": "2"})) == (409, "Conflict")
    assert await apply("me", {"a": "2"}, force="true") == {"a": "2", "b": "1"}, "what is applied no more and is nobody else's goes"
    assert await apply("flux", {"b": "1"}) == {"a": "2", "b": "1"}, "what was taken away is not taken back"
    await patch(api, f"{MAPS}/m", {"data": {"b": "3"}})
    assert await refusal(apply("flux", {"b": "1"})) == (409, "Conflict"), "whoever wrote it last owns it"


async def test_a_forced_apply_of_a_stale_leader_sets_a_number_back_and_a_patch_with_its_version_does_not(api) -> None:
    """Why the status is written by merge patch (record 002)."""
    read = api.put(JOB, job_object(status={"lastSerial": 3}))
    await patch(api, f"{JOB}/status", {"status": {"lastSerial": 4}})
    stale = {"metadata": {"resourceVersion": read["metadata"]["resourceVersion"]}, "status": {"lastSerial": 3}}
    assert await refusal(patch(api, f"{JOB}/status", stale)) == (409, "Conflict")
    await patch(api, f"{JOB}/status", {"status": {"lastSerial": 3}}, APPLY, fieldManager="stale", force="true")
    assert api.objects[JOB]["status"]["lastSerial"] == 3


async def test_a_pod_on_a_node_has_its_grace_and_any_other_none(api) -> None:
    api.put(ONE, pod_object(spec={"terminationGracePeriodSeconds": 60}))
    answer = await api.client.request("DELETE", ONE)
    assert (answer["kind"], answer["metadata"]["deletionGracePeriodSeconds"]) == ("Pod", 60)
    version = api.version
    await api.client.request("DELETE", ONE)
    assert api.version == version, "it leaves already"
    answer = await api.client.request("DELETE", ONE, body={"gracePeriodSeconds": 5})
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 5
    await api.client.request("DELETE", ONE, body={"gracePeriodSeconds": 0})
    assert ONE not in api.objects
    api.put(ONE, pod_object(spec={"nodeName": None}))
    await api.client.request("DELETE", ONE)
    assert ONE not in api.objects
    assert await refusal(api.client.request("DELETE", ONE)) == (404, "NotFound")


async def test_a_deletion_that_names_another_uid_touches_nothing(api) -> None:
    api.put(ONE, pod_object())
    assert await refusal(api.client.request("DELETE", ONE, body={"preconditions": {"uid": "other"}})) == (409, "Conflict")
    assert ONE in api.objects


async def test_finalizers_are_waited_for(api) -> None:
    api.put(JOB, job_object(metadata={"finalizers": ["example.com/x"]}))
    await api.client.request("DELETE", JOB)
    assert "deletionTimestamp" in api.objects[JOB]["metadata"]
    await patch(api, JOB, {"metadata": {"finalizers": None}})
    assert JOB not in api.objects


def test_children_go_with_the_last_of_their_owners_and_owners_elsewhere_are_none() -> None:
    api = ApiServer()
    api.put(JOB, {"metadata": {"uid": UID}})
    api.put(ONE, {"metadata": {"ownerReferences": [{"uid": UID}, {"uid": "gone"}]}})
    api.put(f"{MAPS}/grandchild", {"metadata": {"ownerReferences": [{"uid": api.objects[ONE]["metadata"]["uid"]}]}})
    api.put(f"{MAPS}/free", {})
    api.put("/api/v1/namespaces/team-b/pods/x", {"metadata": {"ownerReferences": [{"uid": UID}]}})
    assert api.collect_garbage() == ["/api/v1/namespaces/team-b/pods/x"]
    api.remove(JOB)
    assert api.collect_garbage() == [ONE, f"{MAPS}/grandchild"]
    assert list(api.objects) == [f"{MAPS}/free"]


@pytest.mark.parametrize(
    ("selector", "labels", "fits"),
    [
        ("", {}, True),
        ("a", {"a": ""}, True),
        ("a", {"b": "1"}, False),
        ("a=1,b", {"a": "1", "b": "2"}, True),
        ("a==1", {"a": "1"}, True),
        ("a=1", {"a": "2"}, False),
        ("a!=1", {"a": "1"}, False),
        ("!a", {"a": "1"}, False),
        ("!a", {}, True),
    ],
)
def test_labels_are_selected(selector, labels, fits) -> None:
    assert selects(selector, {"metadata": {"labels": labels}}) is fits
    assert not selects(selector, None)


async def test_a_watch_from_no_version_shows_what_is_there_and_then_what_changes(api) -> None:
    api.put(ONE, pod_object())
    stream = api.client.watch(PODS, {}, server_seconds=60)
    assert (await anext(stream))[0] == "ADDED"
    api.put(ONE, pod_object(status={"phase": "Failed"}))
    kind, item = await anext(stream)
    assert (kind, item["status"]["phase"]) == ("MODIFIED", "Failed")
    api.remove(ONE)
    kind, item = await anext(stream)
    assert (kind, item["metadata"]["resourceVersion"]) == ("DELETED", str(api.version))
    await stream.aclose()


async def test_a_watch_ends_when_it_was_asked_to_with_a_bookmark_of_the_newest_version(api) -> None:
    api.put(f"{MAPS}/m", {})
    events = [event async for event in api.client.watch(PODS, {"resourceVersion": "1000"}, server_seconds=0)]
    assert [(kind, item["metadata"]["resourceVersion"]) for kind, item in events] == [("BOOKMARK", str(api.version))]
    await asyncio.sleep(0)


async def test_who_has_no_valid_token_is_told_nothing(api) -> None:
    api.tokens = {"another"}
    assert await refusal(api.client.request("GET", ONE)) == (401, "Unauthorized")
    api.tokens = {TOKEN}
    assert await refusal(api.client.request("GET", ONE)) == (404, "NotFound")
    assert await refusal(api.client.request("GET", "/nowhere")) == (404, "NotFound")
