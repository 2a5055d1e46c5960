"""What a person sees of a local run, as one value: newer than the status, because steps come straight from the members' sessions."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.facts.observed import Session


@dataclass(frozen=True, kw_only=True)
class RunView:
    """`step` and `total_steps` are 0 before the first step."""

    name: str
    phase: str
    nodes: str
    step: int
    total_steps: int
    loss: float | None
    eval_loss: float | None
    eta_seconds: float | None
    restarts: int
    reason: str
    last_event: str = ""


def view_run(job: FineTuneJob, sessions: Iterable[Session], last_event: str) -> RunView:
    """The newest of what the status and the sessions know."""
    status = job.status
    reported = [session.run.progress for session in sessions if session.run.progress is not None]
    newest = max(reported, key=lambda progress: (progress.formation, progress.step), default=None)
    known = status.progress if newest is None else newest
    has_left = known is not None and not status.is_ended and known.step < known.total_steps
    return RunView(
        name=job.metadata.name,
        phase=status.phase or "Pending",
        nodes=status.columns.nodes,
        step=0 if known is None else known.step,
        total_steps=0 if known is None else known.total_steps,
        loss=None if known is None else known.loss,
        eval_loss=None if known is None else known.eval_loss,
        eta_seconds=(known.total_steps - known.step) * known.step_seconds if known is not None and has_left else None,
        restarts=status.restarts.total,
        reason=status.columns.reason,
        last_event=last_event,
    )


def render_seconds(seconds: float | None) -> str:
    """ "12s", "3m05s", "2h07m"; "-" for unknown."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def render_line(view: RunView) -> str:
    """One plain line, for logs and pipes."""
    loss = "-" if view.loss is None else f"{view.loss:.4f}"
    steps = f"{view.step}/{view.total_steps}" if view.total_steps else "-"
    return (
        f"{view.name}  {view.phase}  nodes {view.nodes or '-'}  step {steps}  loss {loss}  "
        f"eta {render_seconds(view.eta_seconds)}  restarts {view.restarts}"
    )
