"""The channel: what agents tell the coordinator and what the coordinator orders. JSON, one message a frame, `type` tells which.

Lost and doubled messages are harmless: `hello` carries the whole state, orders carry (term, formation) and older ones are refused.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_contract.failures import FailureReport
from finetune_contract.state import InputDigests, StateId
from finetune_contract.values import Value


class MemberPhase(StrEnum):
    """What a member is doing. READY: inputs are there and no worker runs. LEAVING is told apart (`leaving`)."""

    PREPARING = "preparing"
    READY = "ready"
    STARTING = "starting"  # workers forked, model loading, first step not done
    TRAINING = "training"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    STOPPED = "stopped"  # workers ended or were killed; the member can take the next start
    FINISHED = "finished"  # the output is complete in the store
    FAILED = "failed"  # workers ended by a failure (a `failure` message says which); can take the next start


class SlowRank(Value):
    """A rank whose own passes were much slower than those of the others, step after step. Seconds are of one micro-batch."""

    rank: int
    seconds: float
    others_seconds: float  # what the others would have taken for the same, their median
    step_share: float  # of a step's time, in its own passes


class Progress(Value):
    """State of training after one optimizer step; sent by the agent with node rank 0 only. Times in seconds."""

    type: Literal["progress"] = "progress"
    formation: int
    step: int
    total_steps: int
    epoch: float
    loss: float
    eval_loss: float | None = None
    learning_rate: float
    grad_norm: float
    tokens_total: int
    tokens_per_second: float
    step_seconds: float
    first_loss: float | None = None
    slowest: SlowRank | None = None  # only while one is


class Committed(Value):
    """A commit became complete in the store."""

    type: Literal["committed"] = "committed"
    state: StateId
    key: str
    num_bytes: int
    seconds: float


class StorageProblem(Value):
    """Why commits do not get through, in words for the user."""

    reason: str  # CamelCase, used as the condition's reason: StorageUnavailable or StorageRefused
    message: str


class StorageState(Value):
    """Whether the store of the commits can be used, as this member found it last; told when it changes."""

    type: Literal["storage"] = "storage"
    problem: StorageProblem | None = None


class Output(Value):
    """The published adapter: `sha256` is the digest of its weights file."""

    uri: str
    sha256: str
    num_bytes: int
    step: int
    already_present: bool = False


class Hello(Value):
    """The whole state of one member; first message of every connection."""

    type: Literal["hello"] = "hello"
    member_uid: str
    job_uid: str
    address: str
    port: int  # a free port for the process group's store, used when this member becomes node rank 0
    probe_port: int | None = None  # peers that are asked to probe this member connect to address:probe_port
    num_devices: int
    contract_version: int
    oldest_contract_version: int
    phase: MemberPhase
    formation: int  # newest formation it was ever ordered to start, 0 = none
    term: int  # newest leader term seen
    snapshot: StateId | None = None
    commit: StateId | None = None
    inputs: InputDigests | None = None
    progress: Progress | None = None
    failure: FailureReport | None = None
    failed_formation: int | None = None  # the one that `failure` ended, 0 = the member could not prepare
    output: Output | None = None
    leaving_seconds: float | None = None
    storage: StorageState | None = None  # None: not tried yet


class PhaseChanged(Value):
    """A member's phase changed. `formation` is the one the phase belongs to (0 while preparing)."""

    type: Literal["phase"] = "phase"
    phase: MemberPhase
    formation: int
    bytes_done: int | None = None
    bytes_total: int | None = None
    inputs: InputDigests | None = None
    snapshot: StateId | None = None
    commit: StateId | None = None
    resumed_step: int | None = None  # with TRAINING: the step that training continued from, 0 = from the start
    first_step_seconds: float | None = None  # with TRAINING: what the first step of the formation took, once all was loaded
    output: Output | None = None


class Failed(Value):
    """Training ended by a failure on this member, or the member could not prepare."""

    type: Literal["failure"] = "failure"
    formation: int
    report: FailureReport
    snapshot: StateId | None = None


class Leaving(Value):
    """The member was told to end (SIGTERM); it has this many seconds."""

    type: Literal["leaving"] = "leaving"
    seconds: float


class Probed(Value):
    """Answer to `probe`."""

    type: Literal["probed"] = "probed"
    peer_uid: str
    reachable: bool


class Warned(Value):
    """Something the user should know that ends nothing: idle ranks, numerics changed."""

    type: Literal["warned"] = "warned"
    reason: str  # CamelCase, used as the event's reason
    message: str


class Peer(Value):
    """A member of a formation; its index in `Start.peers` is its node rank."""

    member_uid: str
    name: str
    address: str


class Overrides(Value):
    """What the operator changed on the way (the out-of-memory ladder); kept in status and sent with every start."""

    pack_tokens: int | None = None
    gradient_checkpointing: bool | None = None


class Start(Value):
    """Train as `node_rank` of `formation`; implies stop of every older formation. Node rank 0's store is at master_address:port."""

    type: Literal["start"] = "start"
    term: int
    formation: int
    node_rank: int
    peers: tuple[Peer, ...]
    master_address: str
    master_port: int
    resume: StateId | None = None  # newest state the coordinator knows of; None = look into the store
    resume_node_rank: int | None = None  # member that holds it as a snapshot; None = it is a commit
    inputs: InputDigests | None = None  # pinned digests; a member with others refuses by name
    overrides: Overrides = Overrides()


class Stop(Value):
    """End the workers of `formation`. With `save`: commit the newest snapshot before answering STOPPED (suspend)."""

    type: Literal["stop"] = "stop"
    term: int
    formation: int
    why: str
    save: bool = False
    deadline_seconds: float = 30.0


class Commit(Value):
    """Upload the newest snapshot now."""

    type: Literal["commit"] = "commit"
    term: int
    deadline_seconds: float


class Probe(Value):
    """Say whether this peer's agent can be reached."""

    type: Literal["probe"] = "probe"
    term: int
    peer_uid: str
    address: str


class Inspect(Value):
    """Write the stacks of all workers to the log."""

    type: Literal["inspect"] = "inspect"
    term: int


class Exit(Value):
    """End the agent: with 0 after FINISHED, else with 143."""

    type: Literal["exit"] = "exit"
    term: int
    why: str


FromAgent = Annotated[
    Hello | PhaseChanged | Progress | Committed | Failed | Leaving | Probed | Warned | StorageState, Field(discriminator="type")
]
Order = Annotated[Start | Stop | Commit | Probe | Inspect | Exit, Field(discriminator="type")]

_FROM_AGENT: TypeAdapter[FromAgent] = TypeAdapter(FromAgent)
_ORDER: TypeAdapter[Order] = TypeAdapter(Order)


def parse_from_agent(frame: str | bytes) -> FromAgent:
    """Raises pydantic.ValidationError for a frame that is not a message of ours."""
    return _FROM_AGENT.validate_json(frame)


def parse_order(frame: str | bytes) -> Order:
    """Raises pydantic.ValidationError for a frame that is not an order of ours."""
    return _ORDER.validate_json(frame)


def render_message(message: Value) -> str:
    return message.model_dump_json(exclude_none=True)
