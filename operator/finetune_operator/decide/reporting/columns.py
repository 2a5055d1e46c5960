"""What `kubectl get` prints, as short strings: a printer column cannot compute."""

from finetune_operator.api.status import Columns, ProgressEntry, Restarts
from finetune_operator.decide.answers.answer import Phase


def columns(*, phase: Phase, reason: str, num_ready: int, num_wanted: int, progress: ProgressEntry | None, restarts: Restarts) -> Columns:
    is_ended = phase in {Phase.COMPLETE, Phase.FAILED}
    return Columns(
        nodes=f"{num_ready}/{num_wanted}",
        step="" if progress is None else f"{progress.step}/{progress.total_steps}",
        loss="" if progress is None else f"{progress.loss:.4g}",
        eta="" if progress is None or is_ended or phase in {Phase.SUSPENDED, Phase.QUEUED} else eta(progress),
        restarts=restarts.total,
        reason=reason[:128],
    )


def eta(progress: ProgressEntry) -> str:
    """Time to the last step at the present pace, as "45s", "31m" or "1h12m"."""
    seconds = round(max(progress.total_steps - progress.step, 0) * progress.step_seconds)
    if seconds < 90:
        return f"{seconds}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
