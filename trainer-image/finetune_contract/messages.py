"""The channel, upwards: what agents tell the coordinator. JSON, one message a frame, `type` tells which. Orders come down it.

Lost and doubled messages are harmless: `hello` carries the whole state, orders carry (term, formation) and older ones are refused.
A member belongs to one run, the job of its `hello`, and works in it. What is said of the run carries the run's id; what is said of the
member, its address, its end and whom it reaches, does not.
What an agent says is checked against the bounds of its fields: a message beyond them is refused whole.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from finetune_contract.bounds import (
    BORDER,
    Count,
    FormationNumber,
    Host,
    Port,
    Seconds,
    Step,
    Uid,
    Version,
)
from finetune_contract.failures import FailureReport
from finetune_contract.reports import Committed, Output, Progress, RunId, StorageState, Warned
from finetune_contract.state import InputDigests, StateId
from finetune_contract.values import Value

MAX_FRAME_BYTES = 64 * 1024  # of one message to the coordinator


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


class Hello(Value):
    """The whole state of one member; first message of every connection."""

    type: Literal["hello"] = "hello"
    member_uid: Uid
    job_uid: Uid
    address: Host
    port: Port  # a free port for the process group's store, used when this member becomes node rank 0
    probe_port: Port | None = None  # peers that are asked to probe this member connect to address:probe_port
    num_devices: Count = 0  # read by nobody; an operator of contract 1 does not take a hello without it
    contract_version: Version
    oldest_contract_version: Version
    phase: MemberPhase
    formation: FormationNumber  # newest formation it was ever ordered to start, 0 = none
    term: Count  # newest leader term seen
    snapshot: StateId | None = None
    commit: StateId | None = None
    inputs: InputDigests | None = None
    progress: Progress | None = None
    failure: FailureReport | None = None
    failed_formation: FormationNumber | None = None  # the one that `failure` ended, 0 = the member could not prepare
    output: Output | None = None
    leaving_seconds: Seconds | None = None
    storage: StorageState | None = None  # None: not tried yet


class PhaseChanged(Value):
    """A member's phase changed. `formation` is the one the phase belongs to (0 while preparing)."""

    type: Literal["phase"] = "phase"
    run: RunId = None
    phase: MemberPhase
    formation: FormationNumber
    bytes_done: Count | None = None
    bytes_total: Count | None = None
    rows_done: Count | None = None  # with STARTING: rows that are made into tokens
    rows_total: Count | None = None  # of all, estimated
    inputs: InputDigests | None = None
    snapshot: StateId | None = None
    commit: StateId | None = None
    resumed_step: Step | None = None  # with TRAINING: the step that training continued from, 0 = from the start
    first_step_seconds: Seconds | None = None  # with TRAINING: what the first step of the formation took, once all was loaded
    output: Output | None = None


class Failed(Value):
    """Training ended by a failure on this member, or the member could not prepare."""

    type: Literal["failure"] = "failure"
    run: RunId = None
    formation: FormationNumber
    report: FailureReport
    snapshot: StateId | None = None


class Leaving(Value):
    """The member was told to end (SIGTERM); it has this many seconds."""

    type: Literal["leaving"] = "leaving"
    seconds: Seconds


class Probed(Value):
    """Answer to `probe`."""

    type: Literal["probed"] = "probed"
    peer_uid: Uid
    reachable: bool


OfRun = PhaseChanged | Progress | Committed | Failed | Warned | StorageState  # they say which run they are about
OfMember = Hello | Leaving | Probed
FromAgent = Annotated[OfRun | OfMember, Field(discriminator="type")]

_FROM_AGENT: TypeAdapter[FromAgent] = TypeAdapter(FromAgent, config=ConfigDict(hide_input_in_errors=True))


def parse_from_agent(frame: str | bytes) -> FromAgent:
    """Raises pydantic.ValidationError, and nothing else, for a frame that is not a message of ours within its bounds."""
    return _FROM_AGENT.validate_json(frame, context=BORDER)
