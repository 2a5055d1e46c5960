"""The in-memory ports keep what the API server would keep: compare-and-swap, identity, one member a name."""

import uuid
from datetime import UTC, datetime

import pytest
from examples.make_rows import ROWS, render_rows
from tests.local.runs import a_document

from finetune_operator.api.job import FineTuneJob
from finetune_operator.local.jobs import LocalJobs, read_stored
from finetune_operator.local.prepare import OtherRun, change_document, continue_job, identify
from finetune_operator.local.view import render_seconds
from finetune_operator.reconcile.ports import Conflict, Gone, Written

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def job(tmp_path):
    document = a_document(tmp_path, model=tmp_path / "model", rows=tmp_path / "rows.jsonl")
    return identify(FineTuneJob.model_validate(document), uid=str(uuid.uuid4()), now=NOW)


@pytest.fixture
def jobs(tmp_path):
    return LocalJobs(job_file=tmp_path / "job.json", status_file=tmp_path / "status.yaml", on_event=lambda event: None)


async def test_a_status_is_written_only_over_the_version_that_was_read(jobs, job):
    read = jobs.submit(job)
    newer = job.status.model_copy(update={"last_serial": 2})
    assert isinstance(await jobs.write_status(read, newer), Written)
    assert isinstance(await jobs.write_status(read, newer), Conflict)
    assert jobs.get(job.key).status.last_serial == 2


async def test_a_status_of_another_job_of_the_same_name_is_not_written(jobs, job):
    jobs.submit(job)
    other = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": "other"})})
    assert isinstance(await jobs.write_status(other, job.status), Gone)


def test_suspending_makes_a_status_written_from_the_version_before_a_conflict(jobs, job):
    read = jobs.submit(job)
    jobs.suspend(job.key)
    stored = jobs.get(job.key)
    assert stored.spec.suspend
    assert (stored.metadata.generation, stored.metadata.resource_version) == (2, str(int(read.metadata.resource_version) + 1))


def test_a_stopped_run_goes_on_with_its_identity_and_numbers(jobs, job, tmp_path):
    before = jobs.submit(job.model_copy(update={"status": job.status.model_copy(update={"last_serial": 4})}))
    assert read_stored(tmp_path / "job.json") == before
    fresh = identify(job, uid="another", now=NOW)
    continued = continue_job(fresh, before)
    assert (continued.metadata.uid, continued.status.last_serial) == (job.metadata.uid, 4)
    assert not continued.spec.suspend


@pytest.mark.parametrize("field", ["model", "dataset", "adapter", "training"])
def test_a_run_of_another_recipe_is_not_continued(job, field, tmp_path):
    change = {"model": {"uri": "hf://a/b"}, "dataset": {"eval_fraction": 0.5}, "adapter": {"rank": 2}, "training": {"seed": 1}}[field]
    section = getattr(job.spec, field).model_copy(update=change)
    other = job.model_copy(update={"spec": job.spec.model_copy(update={field: section})})
    with pytest.raises(OtherRun):
        continue_job(other, job)


def test_the_command_line_changes_places_and_members_of_the_document(tmp_path):
    document = {"metadata": {"name": "bot"}, "spec": {"checkpoint": {"uri": "s3://a/b"}, "output": {"uri": "s3://a/c"}}}
    changed = change_document(document, num_members=3, store=tmp_path)
    assert changed["spec"]["checkpoint"]["uri"] == f"file://{tmp_path}/checkpoints/bot"
    assert changed["spec"]["output"]["uri"] == f"file://{tmp_path}/adapters/bot"
    assert changed["spec"]["resources"]["nodes"] == {"min": 3, "max": 3}
    assert document["spec"]["output"]["uri"] == "s3://a/c"


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3725, "1h02m")])
def test_times_are_short(seconds, text):
    assert render_seconds(seconds) == text


def test_the_rows_of_the_examples_are_what_their_sources_say():
    rows = render_rows()
    assert rows == ROWS.read_text()
    assert len(set(rows.splitlines())) == rows.count("\n") >= 300
