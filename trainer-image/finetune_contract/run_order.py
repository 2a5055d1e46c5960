"""What the agent hands to the workers of one formation, and what workers tell back over a pipe (one JSON line an event)."""

from typing import Literal

from pydantic import Field

from finetune_contract.bounds import Address, Count, Digest, MessageText, Port, Rank, RealOrNone, Step, Word
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureReport
from finetune_contract.orders import MAX_SECRET_CHARS, Overrides
from finetune_contract.reports import Progress
from finetune_contract.state import StateId
from finetune_contract.values import Value


class RunOrder(Value):
    """One formation as one member sees it. File descriptors are inherited; None under plain torchrun."""

    config: JobConfig
    overrides: Overrides
    formation: Count
    node_rank: Rank
    num_nodes: Count
    processes_per_node: Count
    master_address: Address
    master_port: Port
    model_dir: str
    dataset_files: tuple[str, ...]  # in the order of their rows
    eval_files: tuple[str, ...]  # of the held-out rows; none if they are a fraction of the training rows
    cache_dir: str  # tokenised rows survive formations here
    output_dir: str  # rank 0 writes the adapter here
    model_digest: str
    dataset_digest: str
    model_revision: str | None
    slots_fd: int | None
    beat_fd: int | None
    events_fd: int | None
    store_secret: str | None = Field(default=None, max_length=MAX_SECRET_CHARS, repr=False)  # of the formation, from `start`


class RowsInputs(Value):
    """What a look at the rows needs: files on this machine. `tokenizer_dir` is a model's folder, with or without its weights."""

    tokenizer_dir: str
    dataset_files: tuple[str, ...]  # in the order of their rows
    eval_files: tuple[str, ...]


class WorkerPhase(Value):
    """Rank 0 of each member announces what it does; the agent's deadline for the beat depends on it.

    `num_bytes`: what is written in one go while nobody can beat.
    """

    type: Literal["phase"] = "phase"
    phase: Literal["loading", "preparing", "first_step", "training", "evaluating", "exporting"]
    resumed_step: Step | None = None
    num_bytes: Count = 0


class WorkerPrepared(Value):
    """Rank 0 of each member, while it makes tokens of the rows. `rows_total` is estimated until the files are read."""

    type: Literal["prepared"] = "prepared"
    rows_done: Count
    rows_total: Count | None


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
    reason: Word
    message: MessageText


class WorkerExported(Value):
    """Global rank 0: the adapter stands in `output_dir`; `state_sha256` is over the final flat adapter weights (fp32)."""

    type: Literal["exported"] = "exported"
    state: StateId
    state_sha256: Digest
    first_loss: RealOrNone = None
    last_loss: RealOrNone = None
    eval_loss: RealOrNone = None
    sample_digest: Digest | None = None


class WorkerDone(Value):
    """Each rank, last: the agent takes "all ranks done" as the end and does not wait for the launcher."""

    type: Literal["done"] = "done"
    rank: Rank
