"""What a rule answers: new intent, what to do, and in which phase the job is. The report turns it into the decision."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.decision import DeleteMember, Event, SendOrder
from finetune_operator.decide.facts.gang import Member
from finetune_operator.decide.facts.observed import PodView


class Phase(StrEnum):
    """`status.phase`: derived, for people, never read back."""

    PENDING = "Pending"
    QUEUED = "Queued"
    PREPARING = "Preparing"
    STARTING = "Starting"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    RECOVERING = "Recovering"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The end of a job; it is never taken back."""

    kind: Literal["Complete", "Failed"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`reason` and `message` say why the job is in `phase`."""

    status: JobStatus
    phase: Phase
    reason: str
    message: str
    verdict: Verdict | None = None
    create: tuple[int, ...] = ()
    delete: tuple[DeleteMember, ...] = ()
    orders: tuple[SendOrder, ...] = ()
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None


def soonest(*seconds: float | None) -> float | None:
    """The first moment at which anything has to be looked at again."""
    return min((value for value in seconds if value is not None), default=None)


def delete_pod(pod: PodView) -> DeleteMember:
    return DeleteMember(uid=pod.uid, name=pod.name)


def sentence_of(members: tuple[Member, ...]) -> str:
    """Names for people: at most four."""
    names = [member.name for member in members]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
