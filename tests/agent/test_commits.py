"""Commits survive crashes in the middle, damage and pruning; the adapter is published whole or not at all."""

import asyncio
import os
import re

import pytest
from tests.agent.builders import UID, a_config, a_snapshot, write_snapshot
from tests.agent.members import Member, write_config
from tests.builders.machine import HANG_SECONDS

from finetune_agent.processes.memory_file import open_memory_file
from finetune_agent.stores.object_store import FolderStore
from finetune_agent.uploading.client import Uploads
from finetune_agent.uploading.commit_log import CommitInvalid, CommitLog
from finetune_agent.uploading.messages import Publish
from finetune_agent.uploading.publish import publish, read_output_manifest
from finetune_contract.commits import manifest_key, state_key
from finetune_contract.config import OutputConfig
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.reports import Committed, StorageState, Warned
from finetune_contract.slots import SlotFile
from finetune_contract.state import InputDigests, StateId


@pytest.fixture
def config(tmp_path):
    return a_config(tmp_path)


@pytest.fixture
def slots(tmp_path):
    return SlotFile(open_memory_file(tmp_path / "state"))


@pytest.fixture
def log(tmp_path, config):
    return CommitLog(store=FolderStore(tmp_path / "checkpoints"), job_uid=UID, config_digests=config.trajectory_digests())


def test_a_commit_gives_back_the_bytes_and_the_record(log, slots, config):
    snapshot = a_snapshot(slots, config, step=3)
    log.write(snapshot)
    assert log.read(snapshot.state_id, None) == snapshot


def test_a_crash_between_state_and_manifest_leaves_the_commit_before(log, slots, config):
    log.write(a_snapshot(slots, config, step=3))
    crashed = a_snapshot(slots, config, step=4)
    log.store.put(state_key(UID, crashed.state_id), crashed.state)
    assert log.states() == (StateId(formation=1, step=3),)


def test_the_newest_is_the_greatest_formation_then_step(log, slots, config):
    for formation, step in ((1, 9), (2, 3), (2, 10)):
        log.write(a_snapshot(slots, config, formation=formation, step=step))
    assert [state.order for state in log.states()] == [(2, 10), (2, 3), (1, 9)]


def test_pruning_keeps_the_newest_and_what_was_resumed_from(log, slots, config):
    for step in range(1, 6):
        log.write(a_snapshot(slots, config, step=step))
    log.prune(keep=2, spared=StateId(formation=1, step=1))
    assert [state.step for state in log.states()] == [5, 4, 1]
    assert len(log.store.list(f"{UID}/state/")) == 3


@pytest.mark.parametrize("damage", ["state missing", "state damaged", "state short", "manifest damaged", "manifest says another position"])
def test_a_damaged_commit_is_named(damage, log, slots, config):
    state_id = a_snapshot(slots, config, step=3).state_id
    log.write(slots.read_newest())
    if damage == "state missing":
        log.store.delete(state_key(UID, state_id))
    elif damage == "manifest damaged":
        log.store.put(manifest_key(UID, state_id), b"{")
    elif damage == "manifest says another position":
        whole = log.store.get(manifest_key(UID, state_id))
        other = re.sub(rb'"rows_consumed":(\d+)', rb'"rows_consumed":1\1', whole)
        assert other != whole
        log.store.put(manifest_key(UID, state_id), other)
    else:
        log.store.put(state_key(UID, state_id), bytes(96 if damage == "state damaged" else 95))
    with pytest.raises(CommitInvalid, match="f000001-000000003"):
        log.read(state_id, None)


def test_a_commit_of_other_inputs_or_another_configuration_is_not_resumed_from(log, slots, config):
    snapshot = a_snapshot(slots, config, step=3)
    log.write(snapshot)
    with pytest.raises(CommitInvalid, match="other model or data"):
        log.read(snapshot.state_id, InputDigests(model="other", dataset="d"))
    other = CommitLog(store=log.store, job_uid=UID, config_digests=("other",))
    with pytest.raises(CommitInvalid, match="another configuration"):
        other.read(snapshot.state_id, None)


def a_request(folder, **changes) -> Publish:
    values = {"id": 1, "folder": str(folder), "formation": 2, "step": 5, "inputs": None}
    return Publish(**(values | changes))


def test_an_outdated_formation_cannot_replace_the_adapter_and_a_later_one_can(tmp_path, config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/adapter_model.safetensors").write_bytes(b"weights")
    store = FolderStore(tmp_path / "adapter")
    publish(store, config, a_request(tmp_path / "out"))
    with pytest.raises(TrainingError, match="formation 2 has already published"):
        publish(store, config, a_request(tmp_path / "out", formation=1))
    publish(store, config, a_request(tmp_path / "out", formation=3))
    assert read_output_manifest(store).formation == 3


def test_another_jobs_adapter_is_replaced_only_if_told(tmp_path, config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/adapter_model.safetensors").write_bytes(b"weights")
    store = FolderStore(tmp_path / "adapter")
    publish(store, config.model_copy(update={"job": config.job.model_copy(update={"uid": "other"})}), a_request(tmp_path / "out"))
    with pytest.raises(TrainingError) as caught:
        publish(store, config, a_request(tmp_path / "out"))
    assert caught.value.failure_class is FailureClass.USER_ERROR
    told = config.model_copy(update={"output": OutputConfig(uri=config.output.uri, if_exists="Overwrite")})
    publish(store, told, a_request(tmp_path / "out"))
    assert read_output_manifest(store).job_uid == UID


class Heard:
    def __init__(self) -> None:
        self.reports: list[Committed | StorageState | Warned] = []

    def __call__(self, report: Committed | StorageState | Warned) -> None:
        self.reports.append(report)


@pytest.fixture
async def uploads(tmp_path, config, monkeypatch):
    """A real uploader process over a slot file; `.slots`, `.heard` and `.uploads` of the returned value."""
    member = Member(uid="u", folder=tmp_path / "u", config_path=write_config(tmp_path, config), channel=tmp_path)
    for name, value in member.environment.items():
        monkeypatch.setenv(name, value)
    fd, heard = open_memory_file(tmp_path / "state"), Heard()
    asked = Uploads(slots_fd=fd, hear=heard)
    task = asyncio.create_task(asked.run())
    asked.slots, asked.heard = SlotFile(fd), heard
    yield asked
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asked.close()


async def test_the_uploader_walks_back_over_a_damaged_commit_and_says_so(uploads, log, config, tmp_path):
    other = SlotFile(open_memory_file(tmp_path / "other"))
    for step in (3, 4):
        log.write(a_snapshot(other, config, step=step))
    log.store.put(state_key(UID, StateId(formation=1, step=4)), bytes(96))
    inputs = InputDigests(model="m", dataset="d")
    assert await uploads.load_newest(newer_than=None, inputs=inputs) == StateId(formation=1, step=3)
    assert uploads.slots.read_newest().record.step == 3
    warned, storage = uploads.heard.reports
    assert storage == StorageState()
    assert (warned.reason, "f000001-000000004.bin is damaged" in warned.message) == ("CommitSkipped", True)


async def test_a_killed_uploader_is_replaced_and_what_it_was_asked_is_done(uploads, log, config):
    write_snapshot(uploads.slots, config, step=8)
    assert await uploads.commit_newest(HANG_SECONDS) == StateId(formation=1, step=8)
    os.kill(uploads.pid, 9)
    write_snapshot(uploads.slots, config, step=9)
    assert await uploads.commit_newest(HANG_SECONDS) == StateId(formation=1, step=9)
    assert [state.step for state in log.states()] == [9, 8]


async def test_each_outage_and_each_end_of_one_is_told_once_and_caught_up_with(uploads, log, config, tmp_path):
    for step in (8, 9):
        move_away(tmp_path / "checkpoints")
        (tmp_path / "checkpoints").write_text("a file where the folder should be")
        write_snapshot(uploads.slots, config, step=step)
        assert await uploads.commit_newest(2.5) is None
        (tmp_path / "checkpoints").unlink()
        assert await uploads.commit_newest(HANG_SECONDS) == StateId(formation=1, step=step)
    told = [report.problem and report.problem.reason for report in uploads.heard.reports if isinstance(report, StorageState)]
    assert told == ["StorageRefused", None, "StorageRefused", None]


def move_away(folder):
    if folder.exists():
        folder.rename(folder.with_name("before"))
