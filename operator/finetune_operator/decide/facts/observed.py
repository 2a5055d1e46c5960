"""Everything one pass may know, as one frozen value. Nothing in here can wait, fail or change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from finetune_contract.failures import FailureReport
from finetune_contract.last_words import Finished
from finetune_contract.messages import MemberPhase
from finetune_contract.reports import Output, Progress, StorageState
from finetune_contract.state import InputDigests, StateId
from finetune_operator.api.job import FineTuneJob


class PodPhase(StrEnum):
    """Kubernetes' pod phases; a local process is RUNNING, SUCCEEDED or FAILED."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True)
class PodView:
    """A member as Kubernetes (or the process table) shows it."""

    serial: int
    uid: str
    name: str
    phase: PodPhase
    created_at: datetime
    node: str | None = None
    placed_at: datetime | None = None  # when a node was found for it
    addresses: frozenset[str] = frozenset()  # of its network, one for each family; none while no node runs it
    is_deleting: bool = False
    ends_at: datetime | None = None  # when a deleting pod is killed, by the clock of Kubernetes
    unschedulable: str | None = None  # the scheduler's words
    is_captured_by_kueue: bool = False  # Kueue holds this single pod back, or counts it as a workload of its own
    waiting: str | None = None  # "ImagePullBackOff: ..." while a container cannot start
    disruption: str | None = None  # reason of the DisruptionTarget condition, or "Evicted", "NodeLost"
    exit_code: int | None = None
    is_oom_killed: bool = False
    last_words: FailureReport | None = None  # parsed termination message
    finished: Finished | None = None  # termination message of a member that published the adapter
    is_kept_by_others: bool = False  # its agent has ended; another container keeps the pod and its room

    @property
    def is_over(self) -> bool:
        """Its agent has ended, whatever other containers do."""
        return self.phase in {PodPhase.SUCCEEDED, PodPhase.FAILED}

    @property
    def holds_room(self) -> bool:
        """It uses a node's resources until somebody deletes it."""
        return not self.is_deleting and (not self.is_over or self.is_kept_by_others)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a member said of the run that it works in."""

    uid: str  # of its job
    phase: MemberPhase
    formation: int
    phase_at: datetime  # when it entered this phase of this formation, as far as it was heard
    snapshot: StateId | None
    commit: StateId | None
    commit_key: str | None
    commit_num_bytes: int | None
    inputs: InputDigests | None
    progress: Progress | None
    progressed_at: datetime | None  # when `progress` last advanced
    failure: FailureReport | None
    failed_formation: int | None
    output: Output | None
    resumed_step: int | None
    first_step_seconds: float | None
    warnings: tuple[tuple[str, str], ...] = ()  # (reason, message)
    storage: StorageState | None = None  # None: it did not try the store yet
    store_away_since: datetime | None = None  # it prepares, and says since then without a break that a store does not answer
    store_away_at: datetime | None = None  # when it said so last
    rows_done: int | None = None  # while it makes tokens of the rows
    rows_total: int | None = None  # of all, estimated


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the agent of one member said so far, its `hello` updated by every later message: of itself, and of the run."""

    member_uid: str
    is_connected: bool
    changed_at: datetime  # connection made or lost
    contract_version: int
    oldest_contract_version: int = 1
    address: str
    port: int
    probe_port: int | None = None  # peers connect to address:probe_port when they are asked to probe this member
    leaving_until: datetime | None
    unreachable_peers: frozenset[str] = field(default_factory=frozenset)  # uids that answered no probe
    term: int = 0  # the newest that its agent had obeyed when it said hello
    run: RunFacts


@dataclass(frozen=True, kw_only=True)
class LineEntry:
    """Another gang, as far as admission needs it. The line is ordered by (priority descending, age)."""

    key: tuple[str, str]
    uid: str
    priority: int
    created_at: datetime
    is_placing: bool  # admitted, gang incomplete
    has_unschedulable: bool
    has_started: bool = False  # a running gang that replaces a lost member, and goes before others for a bounded time
    backoff_until: datetime | None = None  # it waits and lets others go first until then
    gave_back_at: datetime | None = None  # when that wait began
    attempts: int = 0
    is_passed: bool = False  # it had its turn and found no room: others need not wait for it
    is_refused: bool = False  # it waits because its namespace may have no more pods


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A warning of the operator's own about a job; told once, in status.warnings and as an event."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The world of one pass. `line` holds all unfinished jobs that wait or are being placed, this one included, in order."""

    now: datetime
    job: FineTuneJob | None  # None: the job is gone
    pods: tuple[PodView, ...] = ()
    sessions: tuple[Session, ...] = ()
    line: tuple[LineEntry, ...] = ()
    num_placed_at_once: int = 256  # gangs that may be in placement together while no pod lacks room
    num_placed_beside: int = 0  # more of them, each the first of its namespace
    freed_at: datetime | None = None  # when a member of any job gave room back last, as far as this operator saw it
    first_loss_at: datetime | None = None  # of the running gangs of this namespace within half an hour
    term: int = 1
    is_reconnect_over: bool = True  # False inside the reconnect window after the lease was taken
    invalid_pod: str | None = None  # "422 Pod .. is invalid ..": what the API server will never take
    last_applied_error: str | None = None  # "403 exceeded quota ..." of the newest refused creation
    trainer_image: str = ""
    noted: Mapping[int, str] = field(default_factory=dict)  # uid by serial: of pods that were created and are not in the status yet
    taken_serials: frozenset[int] = field(default_factory=frozenset)  # their names belong to somebody else
    remarks: tuple[Remark, ...] = ()  # what the operator's own policy changed
    spec_errors: tuple[str, ...] = ()  # what the schema cannot say, each with its field path
