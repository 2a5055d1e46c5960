"""What comes back from one launch: the workers' own events, plus what only the launcher and the zygote can tell."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_contract.run_order import (
    RunOrder,
    WorkerDone,
    WorkerExported,
    WorkerFailure,
    WorkerPhase,
    WorkerPrepared,
    WorkerProgress,
    WorkerWarning,
)
from finetune_contract.values import Value


class WorkerForked(Value):
    """A worker exists and is about to run; written by itself."""

    type: Literal["forked"] = "forked"
    rank: int
    local_rank: int
    pid: int


class LauncherEnded(Value):
    """The launcher was reaped; `status` is a wait status. Nothing comes after it but lines already in the pipe."""

    type: Literal["ended"] = "ended"
    formation: int
    status: int


class ZygoteReady(Value):
    """Imports are done; launches are accepted."""

    type: Literal["ready"] = "ready"
    seconds: float


class LaunchRefused(Value):
    """The zygote could not fork safely."""

    type: Literal["refused"] = "refused"
    formation: int
    why: str


class LaunchRequest(Value):
    """Sent with one file descriptor: the writing end of the formation's event pipe."""

    order: RunOrder


PipeEvent = Annotated[
    WorkerForked | WorkerPhase | WorkerPrepared | WorkerProgress | WorkerFailure | WorkerWarning | WorkerExported | WorkerDone,
    Field(discriminator="type"),
]
ZygoteEvent = Annotated[LauncherEnded | ZygoteReady | LaunchRefused, Field(discriminator="type")]
LaunchEvent = PipeEvent | LauncherEnded | LaunchRefused

_PIPE_EVENT: TypeAdapter[PipeEvent] = TypeAdapter(PipeEvent)
_ZYGOTE_EVENT: TypeAdapter[ZygoteEvent] = TypeAdapter(ZygoteEvent)


def parse_pipe_event(line: str | bytes) -> PipeEvent:
    return _PIPE_EVENT.validate_json(line)


def parse_zygote_event(packet: str | bytes) -> ZygoteEvent:
    return _ZYGOTE_EVENT.validate_json(packet)


def render_line(event: Value) -> bytes:
    """One line; short enough for a pipe to keep it whole beside the lines of other ranks."""
    return event.model_dump_json(exclude_none=True).encode() + b"\n"
