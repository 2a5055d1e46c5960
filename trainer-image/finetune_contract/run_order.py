"""What the agent hands to the workers of one formation, and what workers tell back over a pipe (one JSON line an event)."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureReport
from finetune_contract.messages import Overrides, Progress
from finetune_contract.state import StateId
from finetune_contract.values import Value


class RunOrder(Value):
    """One formation as one member sees it. File descriptors are inherited; None under plain torchrun."""

    config: JobConfig
    overrides: Overrides
    formation: int
    node_rank: int
    num_nodes: int
    processes_per_node: int
    master_address: str
    master_port: int
    model_dir: str
    dataset_file: str
    eval_file: str | None
    cache_dir: str  # tokenised rows survive formations here
    output_dir: str  # rank 0 writes the adapter here
    model_digest: str
    dataset_digest: str
    model_revision: str | None
    slots_fd: int | None
    beat_fd: int | None
    events_fd: int | None


class WorkerPhase(Value):
    """Rank 0 of each member announces what it does; the agent's deadline for the beat depends on it."""

    type: Literal["phase"] = "phase"
    phase: Literal["loading", "first_step", "training", "evaluating", "exporting"]
    resumed_step: int | None = None


class WorkerProgress(Value):
    """Global rank 0, after each step."""

    type: Literal["progress"] = "progress"
    progress: Progress


class WorkerFailure(Value):
    """Any rank, before it ends."""

    type: Literal["failure"] = "failure"
    report: FailureReport


class WorkerWarning(Value):
    """Global rank 0."""

    type: Literal["warning"] = "warning"
    reason: str
    message: str


class WorkerExported(Value):
    """Global rank 0: the adapter stands in `output_dir`; `state_sha256` is over the final flat adapter weights (fp32)."""

    type: Literal["exported"] = "exported"
    state: StateId
    state_sha256: str
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss: float | None = None
    sample_digest: str | None = None


class WorkerDone(Value):
    """Each rank, last: the agent takes "all ranks done" as the end and does not wait for the launcher."""

    type: Literal["done"] = "done"
    rank: int


WorkerEvent = Annotated[
    WorkerPhase | WorkerProgress | WorkerFailure | WorkerWarning | WorkerExported | WorkerDone, Field(discriminator="type")
]
_EVENT: TypeAdapter[WorkerEvent] = TypeAdapter(WorkerEvent)


def parse_worker_event(line: str | bytes) -> WorkerEvent:
    return _EVENT.validate_json(line)
