"""The tracker is told every step once, and nobody waits for it."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from tests.agent.builders import a_config
from tests.agent.members import Member, write_config
from tests.agent.object_stores import an_error, serving
from tests.agent.wandb_files import history, run_ids
from tests.builders.machine import HANG_SECONDS, slowness

from finetune_agent.stores.object_store import StoreUnavailable
from finetune_agent.tracking import tracking_check
from finetune_agent.tracking.client import Tracking
from finetune_agent.tracking.tracker import Tracker
from finetune_agent.tracking.tracking_check import check_tracking
from finetune_contract.config import JobConfig, TrackingConfig
from finetune_contract.failures import TrainingError
from finetune_contract.reports import Progress

WANDB = TrackingConfig(report_to=("wandb",), project="finetune", entity=None, endpoint=None)


def a_step(step: int, **changes) -> Progress:
    values = {"formation": 1, "step": step, "total_steps": 9, "epoch": 0.5, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0}
    return Progress(**({**values, "tokens_total": 10 * step, "tokens_per_second": 5.0, "step_seconds": 0.1} | changes))


class Run:
    """A run that remembers; `starting_step` as the server tells it on a resume."""

    def __init__(self, starting_step: int = 0) -> None:
        self.starting_step, self.summary, self.logged = starting_step, {}, []

    def log(self, values: dict, step: int) -> None:
        self.logged.append((step, values))


def test_a_step_that_was_computed_again_is_not_told_again(tmp_path):
    run = Run()
    tracker = Tracker(run, tmp_path / "note")
    for step in (1, 2, 3, 2, 3, 4):
        tracker.tell(a_step(step))
    assert [step for step, _ in run.logged] == [1, 2, 3, 4]


def test_another_member_goes_on_after_what_the_server_or_the_note_has(tmp_path):
    resumed = Run(starting_step=4)
    tracker = Tracker(resumed, tmp_path / "note")
    for step in (2, 3, 4, 5):
        tracker.tell(a_step(step))
    assert [step for step, _ in resumed.logged] == [4, 5]
    offline = Run()
    Tracker(offline, tmp_path / "note").tell(a_step(5))
    assert offline.logged == []


def test_an_evaluation_is_told_once_at_the_step_it_belongs_to(tmp_path):
    run = Run()
    tracker = Tracker(run, tmp_path / "note")
    for progress in (a_step(1), a_step(1, eval_loss=3.0), a_step(2, eval_loss=3.0), a_step(2, eval_loss=2.5)):
        tracker.tell(progress)
    assert [(step, values["eval/loss"]) for step, values in run.logged if "eval/loss" in values] == [(1, 3.0), (2, 2.5)]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(tracking_check, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"spec.tracking.reportTo: the package wandb is not installed here; install"):
        check_tracking(WANDB, None, {})
    check_tracking(WANDB.model_copy(update={"report_to": ()}), None, {})


def test_a_missing_key_is_named_and_every_way_to_give_one_is_taken(tmp_path):
    with pytest.raises(TrainingError, match=r"spec.tracking.reportTo: there is no key for wandb; set WANDB_API_KEY"):
        check_tracking(WANDB, None, {"HOME": str(tmp_path)})
    check_tracking(WANDB, None, {"WANDB_MODE": "offline"})
    check_tracking(WANDB, None, {"WANDB_API_KEY": "k"})
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    check_tracking(WANDB, None, {"HOME": str(tmp_path)})


def test_a_secret_without_the_key_is_refused_and_one_that_is_not_there_is_waited_for(tmp_path):
    with pytest.raises(StoreUnavailable, match="the Secret does not exist"):
        check_tracking(WANDB, tmp_path, {})
    (tmp_path / "HF_TOKEN").write_text("t")
    with pytest.raises(TrainingError, match=r"spec.tracking.secretName: the Secret has no WANDB_API_KEY; it has HF_TOKEN"):
        check_tracking(WANDB, tmp_path, {})
    (tmp_path / "WANDB_API_KEY").write_text("k\n")
    check_tracking(WANDB, tmp_path, {})


def a_tracking(folder: Path, monkeypatch, config=None, **environment: str) -> tuple[Tracking, list]:
    """The agent's side with a real tracker behind it."""
    config = config or a_config(folder, tracking=WANDB)
    member = Member(uid="m", folder=folder / "m", config_path=write_config(folder, config), channel=folder, **environment)
    (folder / "tmp").mkdir()
    for name, value in member.environment.items():
        monkeypatch.setenv(name, value)
    warned: list = []
    return Tracking(is_wanted=True, tmp_folder=folder / "tmp", hear=warned.append), warned


async def test_an_offline_run_has_every_step_once_after_pause_and_death(tmp_path, monkeypatch):
    tracking, _ = a_tracking(tmp_path, monkeypatch, WANDB_MODE="offline", WANDB_DIR=str(tmp_path / "wandb"))
    note = tmp_path / "wandb" / "finetune-0000aaaa-1111.json"
    for step in (1, 2):
        tracking.offer(a_step(step))
    await until(lambda: note.exists() and json.loads(note.read_text())["step"] == 2)
    tracking.pause()  # another member has rank 0 ..
    tracking.offer(a_step(2))  # .. and gives it back: the step is computed again
    tracking.offer(a_step(3))
    await tracking.close("finished", seconds=60)
    assert [row["_step"] for row in history(tmp_path / "wandb")] == [1, 2, 3]
    assert run_ids(tmp_path / "wandb") == {"0000aaaa-1111"}


async def test_a_server_that_refuses_is_warned_of_and_waited_for_by_nobody(tmp_path, monkeypatch):
    loop = asyncio.get_running_loop()
    with serving(an_error(401, "Unauthorized")) as endpoint:
        config = a_config(tmp_path, tracking=WANDB.model_copy(update={"endpoint": endpoint}))
        tracking, warned = a_tracking(tmp_path, monkeypatch, config, WANDB_API_KEY="do-not-show-" + "k" * 40)
        tracking.offer(a_step(1))
        await until(lambda: warned)
    started = loop.time()
    for step in range(20_000):
        tracking.offer(a_step(step))
    await tracking.close("finished", seconds=0.2)
    assert loop.time() - started < 5 * slowness()
    assert (warned[0].reason, warned[0].message.split(",")[0]) == ("TrackingUnavailable", "spec.tracking: wandb cannot be used")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"do-not-show" in path.read_bytes() for path in files)
    assert "do-not-show" not in warned[0].message
    assert tracking.pid is None


async def until(is_so, seconds: float = HANG_SECONDS) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not is_so():
        assert clock() < deadline
        await asyncio.sleep(0.05)


def test_the_agent_itself_never_imports_the_package():
    program = "import sys, finetune_agent.member.agent, finetune_agent.tracking.tracker; assert 'wandb' not in sys.modules"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", program]) == 0


def test_a_configuration_from_before_there_was_tracking_tells_nobody(tmp_path):
    written = a_config(tmp_path).model_dump(exclude={"tracking"})
    assert JobConfig.model_validate(written).tracking.report_to == ()
