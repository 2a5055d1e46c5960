"""The tracker child: hands each step to Weights & Biases. `python -m finetune_agent.tracking PARENT`; ends with its standard input.

The id of the run is the uid of the job, so that all formations are one run. A step is told once, whichever member told it: what lies
before the run's own last step is a step that was computed again, with the same numbers. Nothing waits for this process.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, ValidationError

from finetune_agent.logs import configure_logs
from finetune_agent.processes.proc_tree import die_with_parent
from finetune_agent.settings import Settings, read_settings
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.tracking.messages import Ended, Outcome, parse_tracked
from finetune_contract.config import JobConfig
from finetune_contract.reports import Progress, Warned
from finetune_contract.times import TRACKER_RETRY_SECONDS
from finetune_contract.values import Value, render_message

_log = logging.getLogger(__name__)


class Told(Value):
    """The newest step and evaluation that the run has; kept beside it, because an offline run cannot be asked."""

    step: int = 0
    eval_loss: float | None = Field(default=None)


class Tracker:
    """`run` is wandb's. Written before it is told: after a crash in between, a step is missing rather than doubled."""

    def __init__(self, run: Any, note: Path) -> None:
        self._run, self._note = run, note
        self._told = _read_note(note) or Told(step=run.starting_step - 1, eval_loss=run.summary.get("eval/loss"))

    def tell(self, progress: Progress) -> None:
        values = _values(progress) if progress.step > self._told.step else {}
        if progress.step >= self._told.step and progress.eval_loss not in {None, self._told.eval_loss}:
            values["eval/loss"] = progress.eval_loss
        if values:
            self._told = Told(step=progress.step, eval_loss=progress.eval_loss)
            self._note.write_text(self._told.model_dump_json())
            self._run.log(values, step=progress.step)

    def end(self, outcome: Outcome) -> None:
        if outcome == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


def _read_note(note: Path) -> Told | None:
    try:
        return Told.model_validate_json(note.read_text())
    except (OSError, ValidationError):
        return None


def _values(progress: Progress) -> dict[str, float]:
    return {
        "train/loss": progress.loss,
        "train/learning_rate": progress.learning_rate,
        "train/grad_norm": progress.grad_norm,
        "train/tokens": progress.tokens_total,
        "train/tokens_per_second": progress.tokens_per_second,
        "train/step_seconds": progress.step_seconds,
        "train/epoch": progress.epoch,
        "formation": progress.formation,
    }


def open_tracker(config: JobConfig, folder: Path) -> Tracker:
    """Raises whatever wandb raises: an unknown key, a server that does not answer."""
    import wandb

    tracking = config.tracking
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=30,
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    run = wandb.init(
        id=config.job.uid,
        resume="allow",
        project=tracking.project,
        entity=tracking.entity,
        name=config.job.name,
        dir=folder,
        config=config.model_dump(include={"model", "dataset", "adapter", "training", "gang"}),
        settings=settings,
    )
    return Tracker(run, folder / f"finetune-{config.job.uid}.json")


def open_in_the_end(config: JobConfig, folder: Path, report: TextIO) -> Tracker:
    """Again and again; one warning. Steps wait in the pipe and at the agent meanwhile."""
    is_warned = False
    while True:
        try:
            return open_tracker(config, folder)
        except Exception as error:  # noqa: BLE001 - a border: no error of a tracker may reach the job
            _log.warning("wandb cannot be used: %s", error)
            if not is_warned:
                message = f"spec.tracking: wandb cannot be used, training goes on without it until it can: {str(error)[:300]}"
                report.write(render_message(Warned(reason="TrackingUnavailable", message=message)) + "\n")
                report.flush()
            is_warned = True
        time.sleep(TRACKER_RETRY_SECONDS)


def wandb_environment(config: JobConfig, settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """What wandb reads of the environment of its own process; the key is in no other."""
    key = CredentialFiles(settings.tracking_folder).read_tracking_key()
    folder = environment.get("WANDB_DIR") or str(settings.work_folder / "tracking")
    ours = {"WANDB_DIR": folder, "WANDB_ERROR_REPORTING": "false"}
    if config.tracking.endpoint is not None:
        ours["WANDB_BASE_URL"] = config.tracking.endpoint
    return ours if key is None else ours | {"WANDB_API_KEY": key}


def main(arguments: list[str]) -> int:
    die_with_parent(int(arguments[0]))
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever wandb prints is no message to the agent
    settings = read_settings(os.environ)
    config = JobConfig.model_validate_json(settings.config_path.read_text())
    configure_logs(job=config.job.name, member=settings.member_name, part="tracker", stream=sys.stderr)
    os.environ.update(wandb_environment(config, settings, os.environ))
    folder = Path(os.environ["WANDB_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    tracker = open_in_the_end(config, folder, report)
    for line in sys.stdin.buffer:
        message = parse_tracked(line)
        if isinstance(message, Ended):
            tracker.end(message.outcome)
            return 0
        tracker.tell(message)
    return 0
