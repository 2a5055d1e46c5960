"""What the rules of members and of spares answer, one after another."""

from dataclasses import dataclass

from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.decision import DeleteMember, Event


@dataclass(frozen=True, kw_only=True)
class MembersAnswer:
    """Intent and what follows from it for pods."""

    status: JobStatus
    create: tuple[int, ...] = ()
    delete: tuple[DeleteMember, ...] = ()
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None
