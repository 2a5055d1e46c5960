"""What is shown of one job: where training is, and the value of each of its series. Pure; read in a thread beside the event loop."""

from dataclasses import dataclass
from datetime import datetime

from finetune_contract.reports import Progress
from finetune_operator.api.status import JobStatus, ProgressEntry
from finetune_operator.decide.facts.observed import Session
from finetune_operator.decide.reporting.goodput import advance
from finetune_operator.decide.reporting.report import tokens_processed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where training is, from whichever of status and session is newer."""

    step: int
    total_steps: int
    loss: float
    eval_loss: float | None
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    tokens_total: int
    step_seconds: float
    at: datetime

    @property
    def eta_seconds(self) -> float:
        return max(0.0, (self.total_steps - self.step) * self.step_seconds)


def newest_reading(status: JobStatus, sessions: tuple[Session, ...]) -> Reading | None:
    """What was reported last; None before the first step."""
    readings = [_reading(status.progress, status.progress.updated_at)] if status.progress else []
    readings += [_reading(one.run.progress, one.run.progressed_at) for one in sessions if one.run.progress and one.run.progressed_at]
    return max(readings, key=lambda reading: reading.at, default=None)


def _reading(progress: Progress | ProgressEntry, at: datetime) -> Reading:
    return Reading(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        eval_loss=progress.eval_loss,
        learning_rate=progress.learning_rate,
        grad_norm=progress.grad_norm,
        tokens_per_second=progress.tokens_per_second,
        tokens_total=progress.tokens_total,
        step_seconds=progress.step_seconds,
        at=at,
    )


_Values = dict[str, float | None]
COUNTERS = {"tokens_total", "restarts_total"}
SERIES = {
    "step": "Optimizer steps finished",
    "total_steps": "Optimizer steps planned",
    "progress_ratio": "Steps finished of steps planned",
    "loss": "Training loss of the newest step",
    "eval_loss": "Loss on the held-out rows",
    "learning_rate": "Learning rate of the newest step",
    "grad_norm": "Gradient norm before clipping",
    "tokens_per_second": "Training speed",
    "tokens_total": "Tokens processed, those of lost steps included",
    "state_tokens": "Tokens that the present state was trained on",
    "step_seconds": "Duration of the newest step",
    "eta_seconds": "Estimated time to the last step",
    "last_progress_timestamp_seconds": "When a step was last reported",
    "last_checkpoint_timestamp_seconds": "When the newest commit was completed",
    "uncommitted_steps": "Optimizer steps finished and not committed",
    "restarts_total": "Formations after the first",
    "ready_members": "Members that can train",
    "goodput_ratio": "Training seconds of all seconds since admission",
    "start_time_seconds": "When the job was started",
    "completion_time_seconds": "When the job ended",
}


def newest_committed_step(status: JobStatus, sessions: tuple[Session, ...]) -> int:
    """0 before the first commit."""
    said = [one.run.commit for one in sessions if one.run.commit is not None]
    newest = max((commit.order for commit in said), default=(0, 0))
    return max(newest, (status.last_commit.formation, status.last_commit.step) if status.last_commit else (0, 0))[1]


def spent_seconds(status: JobStatus, now: datetime) -> dict[str, float]:
    """Seconds since admission by kind, counted up to now: a job that waits writes nothing, and its time goes on."""
    goodput = status.goodput if status.is_ended else advance(status, status, now)
    return {kind.removesuffix("_seconds"): seconds for kind, seconds in goodput.model_dump().items()}


def job_values(status: JobStatus, reading: Reading | None, committed_step: int, spent: dict[str, float]) -> _Values:
    """Value of each series of one job; None where there is nothing to say yet."""
    total = sum(spent.values())
    values: _Values = {
        "last_checkpoint_timestamp_seconds": _timestamp(status.last_commit.at if status.last_commit else None),
        "restarts_total": status.restarts.total,
        "tokens_total": 0 if reading is None else tokens_processed(status.progress, reading.tokens_total),
        "ready_members": status.ready_members,
        "goodput_ratio": spent["training"] / total if total > 0 else None,
        "start_time_seconds": _timestamp(status.start_time),
        "completion_time_seconds": _timestamp(status.completion_time),
    }
    if reading is not None:
        values |= {
            "step": reading.step,
            "total_steps": reading.total_steps,
            "progress_ratio": reading.step / reading.total_steps if reading.total_steps else None,
            "loss": reading.loss,
            "eval_loss": reading.eval_loss,
            "learning_rate": reading.learning_rate,
            "grad_norm": reading.grad_norm,
            "tokens_per_second": reading.tokens_per_second,
            "state_tokens": reading.tokens_total,
            "step_seconds": reading.step_seconds,
            "uncommitted_steps": None if status.is_ended else max(0, reading.step - committed_step),
            "eta_seconds": None if status.is_ended else reading.eta_seconds,
            "last_progress_timestamp_seconds": _timestamp(reading.at),
        }
    return values


def _timestamp(at: datetime | None) -> float | None:
    return at.timestamp() if at else None
