"""What one agent in memory is, and what it tells of a step."""

from dataclasses import dataclass, field

from finetune_contract.failures import FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Start
from finetune_contract.reports import Output, Progress
from finetune_contract.state import InputDigests, StateId


@dataclass
class Agent:
    """PID 1 of one pod."""

    uid: str
    job_uid: str
    phase: MemberPhase = MemberPhase.PREPARING
    start: Start | None = None
    formation: int = 0
    term: int = 0
    snapshot: StateId | None = None
    commit: StateId | None = None
    inputs: InputDigests | None = None
    progress: Progress | None = None
    failure: FailureReport | None = None
    output: Output | None = None
    is_connected: bool = False
    is_cut_off: bool = False  # no channel, and peers cannot reach it: its formation hangs
    is_mute: bool = False  # no channel, but peers reach it
    ends_at: object = None
    inbox: list = field(default_factory=list)
    started: list[int] = field(default_factory=list)


def make_progress(formation: int, step: int, total_steps: int) -> Progress:
    return Progress(
        formation=formation,
        step=step,
        total_steps=total_steps,
        epoch=step / total_steps,
        loss=2.0 - step / total_steps,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_total=step * 100,
        tokens_per_second=100.0,
        step_seconds=0.5,
        first_loss=2.0,
    )
