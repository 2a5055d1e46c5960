"""What is told of a job's training, by whoever knows it: values that trainer, uploader and tracker write to the agent, and the agent to the
coordinator. How they travel is said by each channel.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_contract.bounds import (
    Amount,
    Count,
    Digest,
    FormationNumber,
    Key,
    MessageText,
    Place,
    Rank,
    Real,
    RealOrNone,
    Seconds,
    Step,
    Uid,
    one_of,
)
from finetune_contract.reasons import OTHER_STORAGE, OTHER_WARNING, STORAGE_REASONS, WARNING_REASONS
from finetune_contract.state import StateId
from finetune_contract.values import Value

RunId = Uid | None  # the uid of the job; None: the one that the member belongs to, as contract 1 says
WarningReason = Annotated[str, Field(max_length=128), one_of(WARNING_REASONS, OTHER_WARNING)]
StorageReason = Annotated[str, Field(max_length=128), one_of(STORAGE_REASONS, OTHER_STORAGE)]


class SlowRank(Value):
    """A rank whose own passes were much slower than those of the others, step after step. Seconds are of one micro-batch."""

    rank: Rank
    seconds: Seconds
    others_seconds: Seconds  # what the others would have taken for the same, their median
    step_share: Amount  # of a step's time, in its own passes


class Progress(Value):
    """State of training after one optimizer step; sent by the agent with node rank 0 only. Times in seconds."""

    type: Literal["progress"] = "progress"
    run: RunId = None
    formation: FormationNumber
    step: Step
    total_steps: Step
    epoch: Amount
    loss: Real
    eval_loss: RealOrNone = None
    learning_rate: Real
    grad_norm: Real
    tokens_total: Count
    tokens_per_second: Amount
    step_seconds: Seconds
    first_loss: RealOrNone = None
    slowest: SlowRank | None = None  # only while one is


class Committed(Value):
    """A commit became complete in the store."""

    type: Literal["committed"] = "committed"
    run: RunId = None
    state: StateId
    key: Key
    num_bytes: Count
    seconds: Seconds


class StorageProblem(Value):
    """Why commits do not get through, in words for the user."""

    reason: StorageReason  # used as the condition's reason
    message: MessageText


class StorageState(Value):
    """Whether the store of the commits can be used, as this member found it last; told when it changes."""

    type: Literal["storage"] = "storage"
    run: RunId = None
    problem: StorageProblem | None = None


class Output(Value):
    """The published adapter: `sha256` is the digest of its weights file."""

    uri: Place
    sha256: Digest
    num_bytes: Count
    step: Step
    already_present: bool = False


class Warned(Value):
    """Something the user should know that ends nothing: idle ranks, numerics changed."""

    type: Literal["warned"] = "warned"
    run: RunId = None
    reason: WarningReason  # CamelCase, used as the event's reason
    message: MessageText
