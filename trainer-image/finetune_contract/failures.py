"""Failure classes, exit codes and the failure report: said once, used by every part."""

from enum import StrEnum

from finetune_contract import bounds
from finetune_contract.bounds import ExitStatus, MessageText, Rank, TracebackText, Word
from finetune_contract.values import Value

MAX_MESSAGE_CHARS = bounds.MAX_MESSAGE_CHARS
MAX_TRACEBACK_CHARS = bounds.MAX_TRACEBACK_CHARS


class FailureClass(StrEnum):
    """Why training stopped; decides what happens next and which budget is touched. A word of a newer contract means INTERNAL."""

    DISRUPTED = "Disrupted"
    INFRASTRUCTURE = "Infrastructure"
    OUT_OF_MEMORY = "OutOfMemory"
    USER_ERROR = "UserError"
    HANG = "Hang"
    NOT_FINITE = "NotFinite"
    INTERNAL = "Internal"

    @classmethod
    def _missing_(cls, value: object) -> "FailureClass | None":
        return cls.INTERNAL if isinstance(value, str) else None


class ExitCode:
    """Exit codes of the agent. A leaving member never exits 0: a Succeeded pod would keep its place in a pod group."""

    FINISHED = 0
    FAILED = 1
    LEAVING = 143


class FailureKind(StrEnum):
    """What a piece of evidence says about the end of a formation, whatever its words are: decides which of several explains it."""

    LOSS = "loss"  # a member is gone, or goes
    CAUSE = "cause"  # the process that ended knows why
    DEVICE = "device"  # a cause: its device can do nothing more until the process has ended
    STALL = "stall"  # nobody says anything, and nothing moves
    VICTIM = "victim"  # somebody else ended first

    @classmethod
    def _missing_(cls, value: object) -> "FailureKind | None":
        return cls.CAUSE if isinstance(value, str) else None


class FailureReport(Value):
    """What one rank (or the agent, then `rank` is None) knows about the end of training, in the user's words.

    `kind` is None in reports of contract 1, and where the class says all: read it by `kind_of`.
    """

    failure_class: FailureClass
    message: MessageText
    kind: FailureKind | None = None
    rank: Rank | None = None
    exit_code: ExitStatus | None = None
    signal: Word | None = None
    traceback_end: TracebackText | None = None


PEER_LOST = "peer lost"  # how the message of a victim begins
DEVICE_ERROR = "device error"  # how the message about a broken device begins


def kind_of(report: FailureReport) -> FailureKind:
    """A rank may say that a peer was lost or that its device is broken; whatever else it says is a cause."""
    if report.failure_class is not FailureClass.INFRASTRUCTURE or report.signal is not None:
        return FailureKind.CAUSE
    said = report.kind or kind_by_words(report.message)
    return said if said in {FailureKind.VICTIM, FailureKind.DEVICE} else FailureKind.CAUSE


def kind_by_words(message: str) -> FailureKind:
    """Of an infrastructure failure that contract 1 told: goes with it."""
    if PEER_LOST in message:
        return FailureKind.VICTIM
    return FailureKind.DEVICE if DEVICE_ERROR in message else FailureKind.CAUSE


class TrainingError(Exception):
    """A failure with a class: raised by trainer and agent, it crosses processes as a FailureReport."""

    def __init__(
        self, failure_class: FailureClass, message: str, *, rank: int | None = None, kind: FailureKind = FailureKind.CAUSE
    ) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.kind = kind
        self.message = message
        self.rank = rank  # where it began, when that is known to be another rank than the one that raises
