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


class FailureReport(Value):
    """What one rank (or the agent, then `rank` is None) knows about the end of training, in the user's words."""

    failure_class: FailureClass
    message: MessageText
    rank: Rank | None = None
    exit_code: ExitStatus | None = None
    signal: Word | None = None
    traceback_end: TracebackText | None = None


PEER_LOST = "peer lost"  # how the message of a victim begins: somebody else ended first
DEVICE_ERROR = "device error"  # how a message begins when the device of a process can do nothing more until the process has ended


def is_peer_lost(report: FailureReport) -> bool:
    """A victim's report: it explains nothing, and another report may."""
    return report.failure_class is FailureClass.INFRASTRUCTURE and report.signal is None and PEER_LOST in report.message


class TrainingError(Exception):
    """A failure with a class: raised by trainer and agent, it crosses processes as a FailureReport."""

    def __init__(self, failure_class: FailureClass, message: str, *, rank: int | None = None) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.message = message
        self.rank = rank  # where it began, when that is known to be another rank than the one that raises
