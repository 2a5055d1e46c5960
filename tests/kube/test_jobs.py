"""Status patches: exactly the change, valid for exactly the version that was read."""

from typing import Any

import pytest
from tests.kube.builders import NOW, UID, job, job_object

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import Columns, CommitEntry, JobStatus, MemberEntry
from finetune_operator.kube.jobs import ClusterJobs, render_status, render_status_patch
from finetune_operator.kube.merge_patch import diff


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


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def test_keys_of_a_newer_operator_are_left_alone() -> None:
    assert diff({"ours": 1, "theirs": 2}, {"ours": 1}, {}) == {"ours": None}


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
    """A cache that no API server stands behind: only what the feed brings in is asked for."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, str]] = []
        self.jobs = ClusterJobs(None, None, namespaces=(), on_change=self.woken.append, on_written=lambda job, status: None)  # type: ignore[arg-type]


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


def test_a_job_that_cannot_be_read_is_left_out_and_ends_nothing() -> None:
    feed = Feed()
    feed.jobs.apply("ADDED", job_object(spec={"adapter": {"rank": "many"}}))
    assert feed.jobs.keys() == ()
