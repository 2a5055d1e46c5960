"""`status` of a FineTuneJob: durable intent (members, formation, pinned) and report (phase, conditions, progress) in one value.

Intent is a set: a serial enters `members` before its pod is created and leaves only when its uid was seen gone, terminal or leaving.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_contract.orders import Overrides
from finetune_contract.state import InputDigests, StateId

_OUTSIDE = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


MAX_WARNINGS = 32


class StatusValue(BaseModel):
    """Frozen; camelCase outside, snake_case inside; fields of a newer operator are kept out, never fatal."""

    model_config = _OUTSIDE


class Condition(StatusValue):
    """metav1.Condition; `last_transition_time` moves on status flips only."""

    type: str = Field(max_length=316)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=1024)
    message: str = Field(max_length=2048)
    observed_generation: int
    last_transition_time: datetime


class MemberEntry(StatusValue):
    """A place in the gang, or a spare for one. `uid` is None until its pod was seen or created."""

    serial: int
    uid: str | None = Field(default=None, max_length=64)
    is_spare: bool = False


class FormationEntry(StatusValue):
    """The newest formation that was ordered. `serials` and `uids`, of their pods, in node rank order; `is_over`: stopped or failed."""

    number: int
    serials: tuple[int, ...] = Field(max_length=256)
    uids: tuple[Annotated[str, Field(max_length=64)], ...] = Field(default=(), max_length=256)
    master_port: int
    resume: StateId | None = None
    resume_serial: int | None = None  # holds `resume` as a snapshot; None: it is a commit, or the store is looked up
    ordered_at: datetime
    first_step_at: datetime | None = None
    resumed_step: int | None = None
    furthest_step: int = 0  # of all formations before it; a crash before it was passed is one without progress
    is_over: bool = False
    over_at: datetime | None = None

    def uid_of(self, serial: int) -> str | None:
        """None for a serial that takes no part, and in a formation that was ordered before uids were kept."""
        return dict(zip(self.serials, self.uids, strict=False)).get(serial)


class PinnedInputs(InputDigests):
    """SHA-256 (hex) over model files and data, as the first ready member found them; equal in all members."""

    model_config = _OUTSIDE

    @classmethod
    def of(cls, digests: InputDigests) -> Self:
        return cls(**digests.model_dump())

    def digests(self) -> InputDigests:
        """As the channel spells it."""
        return InputDigests(**self.model_dump())


class PinnedOverrides(Overrides):
    """What the operator changed on the way (the out-of-memory ladder); sent with every start."""

    model_config = _OUTSIDE

    def overrides(self) -> Overrides:
        """As the channel spells it."""
        return Overrides(**self.model_dump())


class Pinned(StatusValue):
    """Fixed at admission for the job's life: an operator upgrade never changes a running job."""

    image: str = Field(max_length=512)
    contract_version: int
    admitted_at: datetime
    inputs: PinnedInputs | None = None
    overrides: PinnedOverrides = PinnedOverrides()


class StragglerEntry(StatusValue):
    """A member whose rank is slow step after step: seconds for a micro-batch, what the others take for the same, share of a step's time."""

    member: str = Field(max_length=64)
    rank: int
    seconds: float
    others_seconds: float
    step_share: float


class ProgressEntry(StatusValue):
    """Training progress as last reported; floats by value, compare with tolerance."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    first_loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float
    grad_norm: float
    tokens_total: int
    tokens_processed: int = 0
    tokens_per_second: float
    step_seconds: float
    straggler: StragglerEntry | None = None
    updated_at: datetime


class CommitEntry(StatusValue):
    """The newest commit that an agent reported."""

    formation: int
    step: int
    key: str = Field(max_length=1024)
    num_bytes: int
    at: datetime


class Restarts(StatusValue):
    """Formations after the first, counted apart; the column RESTARTS is their sum."""

    disruptions: int = 0
    crashes: int = 0
    crashes_without_progress: int = 0
    lost_steps: int = 0  # finished steps that had to be computed again

    @property
    def total(self) -> int:
        return self.disruptions + self.crashes


class Recovery(StatusValue):
    """One recovery: why, from which step it resumed, and where the seconds went.

    `total` is the sum of stop (until no worker of the formation before lives), replace (until every member of the next one has opened its
    channel), prepare (until all have model and data), start (until all is loaded) and first step. `detect` came before.
    """

    formation: int
    failure_class: str = Field(max_length=32)
    kind: str | None = Field(default=None, max_length=16)
    reason: str = Field(max_length=1024)
    member: str | None = Field(default=None, max_length=64)
    at: datetime
    resumed_step: int | None = None
    lost_steps: int | None = None
    detect_seconds: float | None = None
    stop_seconds: float | None = None
    replace_seconds: float | None = None
    prepare_seconds: float | None = None
    start_seconds: float | None = None
    first_step_seconds: float | None = None
    total_seconds: float | None = None


class Goodput(StatusValue):
    """Seconds since admission by kind."""

    waiting_seconds: float = 0
    starting_seconds: float = 0
    training_seconds: float = 0
    recovering_seconds: float = 0
    lost_seconds: float = 0


class Placement(StatusValue):
    """Native admission: since when the gang is being placed, and until when it backs off."""

    placing_since: datetime | None = None
    backoff_until: datetime | None = None
    gave_back_at: datetime | None = None
    attempts: int = 0
    why: str | None = Field(default=None, max_length=1024)
    is_refused: bool = False  # the cluster took no more of its pods: quota, a policy, a webhook


class MemberFailures(StatusValue):
    """Failures in a row: members that ended without ever saying hello, spares lost since one was ready, placements that never started."""

    count: int = 0
    last_at: datetime | None = None


class OutputEntry(StatusValue):
    """The published adapter."""

    uri: str = Field(max_length=1024)
    sha256: str = Field(max_length=64)
    num_bytes: int
    base_model: str = Field(max_length=1024)
    base_revision: str | None = Field(default=None, max_length=256, description="Commit of the base model, if it came from a hub.")
    rank: int = Field(description="LoRA rank; a server needs at least this as its greatest rank (vLLM: --max-lora-rank).")


class WarningEntry(StatusValue):
    """What a member warned of, told as an event too: it ended nothing, but may explain the result (numerics changed, rows cut).

    What is told once for each subject names it in `about`, since the numbers in the message may be others the next time.
    """

    reason: str = Field(max_length=128)
    message: str = Field(max_length=1000)
    about: str | None = Field(default=None, max_length=128)
    at: datetime


class Columns(StatusValue):
    """What `kubectl get` prints; strings, because a column cannot compute."""

    nodes: str = Field(default="", max_length=32)
    step: str = Field(default="", max_length=32)
    loss: str = Field(default="", max_length=32)
    eta: str = Field(default="", max_length=32)
    restarts: int = 0
    reason: str = Field(default="", max_length=128)


class JobStatus(StatusValue):
    """The whole status. A default instance is the status of a job never seen before."""

    observed_generation: int = 0
    phase: str = Field(default="", max_length=32)
    conditions: tuple[Condition, ...] = Field(default=(), max_length=32)
    pinned: Pinned | None = None
    last_serial: int = 0
    members: tuple[MemberEntry, ...] = Field(default=(), max_length=512)
    formation: FormationEntry | None = None
    last_formation: int = 0
    progress: ProgressEntry | None = None
    last_commit: CommitEntry | None = None
    restarts: Restarts = Restarts()
    recoveries: tuple[Recovery, ...] = Field(default=(), max_length=10)
    goodput: Goodput = Goodput()
    placement: Placement = Placement()
    replacing_since: datetime | None = None  # it bounds for how long the gang goes before those that have not started
    silent_members: MemberFailures = MemberFailures()
    lost_spares: MemberFailures = MemberFailures()
    failed_starts: MemberFailures = MemberFailures()
    output: OutputEntry | None = None
    warnings: tuple[WarningEntry, ...] = Field(default=(), max_length=MAX_WARNINGS)
    start_time: datetime | None = None
    completion_time: datetime | None = None
    ready_members: int = 0
    ready_spares: int = 0
    selector: str = Field(default="", max_length=256)
    columns: Columns = Columns()

    @property
    def places(self) -> tuple[MemberEntry, ...]:
        """Members without spares."""
        return tuple(entry for entry in self.members if not entry.is_spare)

    def condition(self, name: str) -> Condition | None:
        return next((entry for entry in self.conditions if entry.type == name), None)

    def is_true(self, name: str) -> bool:
        entry = self.condition(name)
        return entry is not None and entry.status == "True"

    @property
    def is_ended(self) -> bool:
        return self.is_true("Complete") or self.is_true("Failed")
