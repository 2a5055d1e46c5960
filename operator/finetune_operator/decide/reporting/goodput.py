"""Seconds since admission by kind. They partition the time, so their sum says up to when they were counted."""

from datetime import datetime

from finetune_operator.api.status import Goodput, JobStatus
from finetune_operator.decide.answers.answer import Phase

_KIND: dict[str, str] = {
    Phase.TRAINING: "training_seconds",
    Phase.EVALUATING: "training_seconds",
    Phase.EXPORTING: "training_seconds",
    Phase.PREPARING: "starting_seconds",
    Phase.STARTING: "starting_seconds",
    Phase.RECOVERING: "recovering_seconds",
}


def advance(old: JobStatus, new: JobStatus, now: datetime) -> Goodput:
    """Time since the last count belongs to the phase that was; computed again steps move from training to lost."""
    if new.pinned is None:
        return new.goodput
    counted = sum(old.goodput.model_dump().values())
    seconds = max((now - new.pinned.admitted_at).total_seconds() - counted, 0.0)
    kind = _KIND.get(old.phase, "waiting_seconds")
    spent = {**old.goodput.model_dump()}
    spent[kind] += seconds
    lost = min(_newly_lost_seconds(old, new), spent["training_seconds"])
    spent["training_seconds"] -= lost
    spent["lost_seconds"] += lost
    return Goodput(**{name: round(value, 3) for name, value in spent.items()})


def _newly_lost_seconds(old: JobStatus, new: JobStatus) -> float:
    if not new.recoveries or new.progress is None:
        return 0.0
    last = new.recoveries[-1]
    known = next((record for record in old.recoveries if record.formation == last.formation), None)
    is_news = last.lost_steps is not None and (known is None or known.lost_steps is None)
    return (last.lost_steps or 0) * new.progress.step_seconds if is_news else 0.0
