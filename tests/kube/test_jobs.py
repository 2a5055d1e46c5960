"""Status patches: exactly the change, valid for exactly the version that was read."""

from dataclasses import replace

import pytest
from tests.kube.api_server import ApiServer, refusing
from tests.kube.builders import NOW, UID, Strangers, job, job_object
from tests.kube.patches import merge

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import Columns, CommitEntry, JobStatus, MemberEntry
from finetune_operator.kube import jobs as jobs_module
from finetune_operator.kube.job_view import parse_job, render_status, render_status_patch, render_unreadable_patch
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.kube.merge_patch import diff
from finetune_operator.reconcile.ports import Conflict


@pytest.mark.parametrize(
    ("stored", "wanted", "patch"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": {"d": 1}}}, {"a": {"c": {"d": 1}}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": {"b": 1}}, {}, {"a": None}),
        ({"a": 0}, {"a": False}, {}),
    ],
)
def test_a_merge_patch_is_the_smallest_that_leads_there(stored, wanted, patch) -> None:
    assert diff(stored, stored, wanted) == patch
    assert merge(stored, patch) == wanted


def test_keys_of_a_newer_operator_are_left_alone() -> None:
    assert diff({"ours": 1, "theirs": 2}, {"ours": 1}, {}) == {"ours": None}


@pytest.mark.parametrize(
    ("known", "wanted", "sent"),
    [
        ([{"serial": 1}], [{"serial": 1, "uid": "u"}], [{"serial": 1, "uid": "u", "later": 7}]),
        ([{"serial": 1}], [{"serial": 2}], [{"serial": 2}]),
        ([{"serial": 1}], [{"serial": 2}, {"serial": 1}], [{"serial": 2}, {"serial": 1, "later": 7}]),
        ([{"serial": 1}], [], []),
        ([{"serial": 1}], [{"serial": 1}], None),
    ],
)
def test_fields_of_a_newer_operator_in_a_list_are_left_alone_too(known, wanted, sent) -> None:
    stored = {"members": [{"serial": 1, "later": 7}]}
    assert diff(stored, {"members": known}, {"members": wanted}).get("members") == sent


def test_the_first_status_is_sent_whole() -> None:
    fresh = job(status=None)
    patch = render_status_patch(fresh, {}, JobStatus(phase="Pending"))
    assert patch is not None
    assert patch["status"] == render_status(JobStatus(phase="Pending"))


def test_a_patch_names_uid_and_version_and_nothing_else_changes_nothing() -> None:
    one = job()
    stored = render_status(one.status)
    assert render_status_patch(one, stored, one.status) is None
    patch = render_status_patch(one, stored, one.status.model_copy(update={"phase": "Training"}))
    assert patch == {"metadata": {"uid": UID, "resourceVersion": "100"}, "status": {"phase": "Training"}}


def test_what_vanishes_from_the_status_is_sent_as_null() -> None:
    commit = CommitEntry(formation=1, step=2, key="k", num_bytes=3, at=NOW)
    before = JobStatus(members=(MemberEntry(serial=1, uid="u"),), last_commit=commit, columns=Columns(loss="1.0"))
    stored = render_status(before)
    one = FineTuneJob.model_validate({**job_object(), "status": stored})
    after = before.model_copy(update={"last_commit": None, "members": ()})
    patch = render_status_patch(one, stored, after)
    assert patch is not None
    assert patch["status"] == {"lastCommit": None, "members": []}
    assert merge(stored, patch["status"]) == render_status(after)


class Feed:
    """A cache of jobs. Most tests need no API server behind it: only what the feed brings in is asked for."""

    def __init__(self, api: ApiServer | None = None) -> None:
        self.woken: list[tuple[str, str]] = []
        self.strangers = Strangers()
        self.jobs = ClusterJobs(
            None if api is None else api.client,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            namespaces=(),
            on_change=self.woken.append,
            on_written=lambda job, status: None,
            strangers=self.strangers,
        )


KEY = ("team-a", "support-bot")


def test_a_job_is_known_from_its_first_event_to_its_deletion() -> None:
    feed = Feed()
    feed.jobs.apply(None, job_object())
    assert feed.jobs.get(KEY).metadata.uid == UID
    feed.jobs.apply("DELETED", job_object())
    assert feed.jobs.get(KEY) is None
    assert feed.woken == [KEY, KEY]


def test_an_event_that_is_older_than_our_own_write_changes_nothing() -> None:
    feed = Feed()
    feed.jobs.apply("MODIFIED", job_object(metadata={"resourceVersion": "120"}, status={"phase": "Training"}))
    feed.jobs.apply("MODIFIED", job_object(metadata={"resourceVersion": "101"}, status={"phase": "Pending"}))
    assert feed.jobs.get(KEY).status.phase == "Training"


def test_a_namesake_replaces_the_job_and_the_late_deletion_of_the_old_one_does_not_hurt_it() -> None:
    feed = Feed()
    feed.jobs.apply("ADDED", job_object())
    feed.jobs.apply("ADDED", job_object(metadata={"uid": "next", "resourceVersion": "300"}))
    feed.jobs.apply("DELETED", job_object(metadata={"resourceVersion": "301"}))
    assert feed.jobs.get(KEY).metadata.uid == "next"
    assert feed.jobs.uids() == {"next"}


def test_a_late_event_of_a_deleted_job_brings_nothing_back() -> None:
    feed = Feed()
    feed.jobs.apply("DELETED", job_object())
    feed.jobs.apply("MODIFIED", job_object(metadata={"resourceVersion": "900"}))
    assert feed.jobs.keys() == ()


UNREADABLE = {"spec": {"adapter": {"rank": "many"}}, "status": {"phase": "Training", "conditions": [{"type": "Later", "status": "True"}]}}
JOB_PATH = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support-bot"


def test_a_job_that_cannot_be_read_is_known_and_nothing_is_decided_about_it() -> None:
    feed = Feed()
    feed.jobs.apply("ADDED", job_object(**UNREADABLE))
    assert feed.jobs.get(KEY) is None
    assert (feed.jobs.keys(), feed.jobs.uids(), feed.jobs.num_unreadable) == ((KEY,), {UID}, 1)
    assert feed.strangers.seen == ["finetunejobs"]


@pytest.mark.parametrize(
    "spec",
    [
        {"training": {"newKnob": 1}},
        {"newSection": {"deep": {"list": [{}]}}},
        {"resources": {"nodes": {"min": 1, "max": 1, "step": 1}}},
    ],
)
def test_fields_of_a_newer_definition_are_no_reason_to_leave_a_job_alone(spec) -> None:
    feed = Feed()
    feed.jobs.apply("MODIFIED", job_object(spec=spec))
    assert feed.jobs.get(KEY) is not None


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"training": {"precision": "fp4"}}, "spec.training.precision"),
        ({"placement": {"nodeSelector": {"k" * 300: "v"}}}, "spec.placement.nodeSelector"),
        ({"placement": {"labels": {"team": 1}}}, "spec.placement.labels.team"),
        ({"model": None}, "spec.model"),
    ],
)
async def test_a_job_that_cannot_be_read_says_so_once_in_its_status_and_asks_for_nothing_more(api, spec, path) -> None:
    feed = Feed(api)
    feed.jobs.apply("MODIFIED", job_object())
    feed.jobs.apply("MODIFIED", api.put(JOB_PATH, job_object(**{**UNREADABLE, "spec": spec})))
    for _ in range(10):
        assert await feed.jobs.tell_unreadable(KEY) >= 59
    stored = api.objects[JOB_PATH]["status"]
    assert api.log == [("PATCH", f"{JOB_PATH}/status")]
    stalled = stored["conditions"][-1]
    assert (stalled["type"], stalled["status"], stalled["reason"]) == ("Stalled", "True", "Unreadable")
    assert stalled["message"].startswith(path)
    assert (stored["phase"], stored["conditions"][0]) == ("Training", {"type": "Later", "status": "True"})


def test_the_log_holds_one_line_of_a_job_whatever_number_of_its_versions_cannot_be_read(api, caplog) -> None:
    feed = Feed(api)
    for number in range(200):
        spec = {"adapter": {"rank": f"many{number % 3}"}}
        feed.jobs.apply("MODIFIED", job_object(spec=spec, metadata={"resourceVersion": str(101 + number)}))
    assert len([line for line in caplog.records if "cannot be read" in line.message]) == 1
    assert len(feed.strangers.seen) == 200
    feed.jobs.apply("DELETED", job_object(metadata={"resourceVersion": "900"}))
    assert feed.jobs._logged == {}


async def test_a_status_that_is_refused_is_tried_again_slowly(api) -> None:
    feed = Feed(api)
    api.script("PATCH", "/status", refusing(422, "Invalid", "no"), always=True)
    feed.jobs.apply("MODIFIED", api.put(JOB_PATH, job_object(**UNREADABLE)))
    assert [await feed.jobs.tell_unreadable(KEY) > 59 for _ in range(5)] == [True] * 5
    assert len(api.log) == 1


async def test_a_write_whose_answer_cannot_be_read_makes_the_job_unreadable_and_no_second_write(api) -> None:
    """The definition was replaced between reading and writing."""
    feed = Feed(api)
    feed.jobs.apply("MODIFIED", api.put(JOB_PATH, job_object()))
    one = feed.jobs.get(KEY)
    version = api.objects[JOB_PATH]["metadata"]["resourceVersion"]
    api.objects[JOB_PATH] = job_object(spec={"training": {"precision": "fp4"}}, metadata={"resourceVersion": version})
    assert await feed.jobs.write_status(one, one.status.model_copy(update={"phase": "Training"})) == Conflict()
    assert await feed.jobs.tell_unreadable(KEY) is not None
    assert len(api.log) == 2


async def test_a_job_that_can_be_read_again_goes_on() -> None:
    feed = Feed()
    feed.jobs.apply("MODIFIED", job_object(**UNREADABLE))
    feed.jobs.apply("MODIFIED", job_object(metadata={"resourceVersion": "101"}))
    assert await feed.jobs.tell_unreadable(KEY) is None
    assert feed.jobs.get(KEY) is not None


def test_the_end_of_a_job_that_cannot_be_read_is_noticed() -> None:
    feed = Feed()
    feed.jobs.apply("MODIFIED", job_object(**UNREADABLE))
    feed.jobs.apply("DELETED", job_object(**UNREADABLE))
    assert (feed.jobs.keys(), feed.jobs.uids()) == ((), frozenset())


@pytest.mark.parametrize("item", [None, [], 7, {}, {"metadata": None}, {"metadata": {"name": 1, "namespace": "a", "uid": "u"}}])
def test_what_is_no_job_is_counted_and_ends_nothing(item) -> None:
    feed = Feed()
    for kind in (None, "ADDED", "DELETED", "LATER"):
        feed.jobs.apply(kind, item)
    assert (feed.jobs.keys(), feed.strangers.seen) == ((), ["finetunejobs"] * 4)


def test_the_uids_that_are_remembered_as_deleted_are_bounded_and_the_oldest_goes_first(monkeypatch) -> None:
    monkeypatch.setattr(jobs_module, "_MAX_TOMBSTONES", 3)
    feed = Feed()
    for number in range(5):
        feed.jobs.apply("DELETED", job_object(metadata={"uid": f"u{number}"}))
    for number in range(5):
        feed.jobs.apply("MODIFIED", job_object(metadata={"name": f"j{number}", "uid": f"u{number}"}))
    assert feed.jobs.uids() == {"u0", "u1"}


STALLED = {"type": "Stalled", "status": "True", "reason": "Unreadable", "message": "m", "lastTransitionTime": "then"}


@pytest.mark.parametrize(
    ("conditions", "since"),
    [
        ([], "now"),
        ([STALLED | {"message": "other"}], "then"),
        ([STALLED | {"reason": "GoesOn"}], "then"),
        ([STALLED | {"status": "False"}], "now"),
        ([STALLED | {"message": "other", "lastTransitionTime": None}], "now"),
        ([STALLED], None),
        ([{"type": "Failed", "status": "True"}], None),
        ([{"type": "Complete", "status": "True"}], None),
        ([{"type": "Complete", "status": "False"}], "now"),
    ],
)
def test_an_unreadable_job_is_told_what_its_conditions_do_not_say_yet(conditions, since) -> None:
    read = parse_job(job_object(**UNREADABLE))
    patch = render_unreadable_patch(replace(read, message="m", conditions=tuple(conditions), generation=7), "now")
    if since is None:
        assert patch is None
        return
    assert patch["metadata"] == {"uid": UID, "resourceVersion": "100"}
    assert [one for one in patch["status"]["conditions"] if one["type"] != "Stalled"] == [
        one for one in conditions if one["type"] != "Stalled"
    ]
    assert patch["status"]["conditions"][-1] == STALLED | {"lastTransitionTime": since, "observedGeneration": 7}
