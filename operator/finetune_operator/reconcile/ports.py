"""What a pass needs of the world; pods and local processes each implement it, and the story tests a third time in memory."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from finetune_contract.orders import Order
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.decision import Decision, Event
from finetune_operator.decide.facts.observed import PodView, Session
from finetune_operator.decide.facts.policy import PodDecoration

Key = tuple[str, str]
REFUSALS = {  # what each listener turns away
    "channel": ("connection", "elsewhere", "hello", "late", "message", "pace", "second", "token"),
    "webhook": ("busy", "connection", "late"),
    "metrics": ("busy", "connection", "late"),
}


class Unavailable(Exception):
    """The cluster gave no answer, or one that says nothing about the job: no fault of the job or of a pass."""


@dataclass(frozen=True)
class Created:
    """The pod exists and is ours: it was made just now, or it is the one that a creation without an answer left; `observe` shows it."""

    uid: str


@dataclass(frozen=True)
class NameTaken:
    """Somebody else owns that name: the next serial is taken."""


@dataclass(frozen=True)
class Refused:
    """Quota, LimitRange, Pod Security, a policy, a namespace that is gone: it may be taken later. The server's words."""

    message: str


@dataclass(frozen=True)
class PodInvalid:
    """The API server will never take this pod (400, 422): the job that it is made from is wrong. The server's words."""

    message: str


@dataclass(frozen=True)
class Written:
    """The status write went through; `job` is the newest object."""

    job: FineTuneJob


@dataclass(frozen=True)
class Conflict:
    """Somebody wrote in between (409): observe again."""


@dataclass(frozen=True)
class Gone:
    """404 or another uid: the job is gone."""


class Members(Protocol):
    """Pods of a cluster, or processes of one machine."""

    def observe(self, job: FineTuneJob) -> tuple[PodView, ...]:
        """Those in the job's namespace that the job controls, whether it asked for them or not."""
        ...

    async def create(self, job: FineTuneJob, serial: int, decoration: PodDecoration) -> Created | NameTaken | Refused | PodInvalid: ...

    async def delete(self, job: FineTuneJob, uid: str, name: str, grace_seconds: int | None) -> None: ...


class Agents(Protocol):
    """Sessions of agents, and orders to them. `send` never waits for an answer; an order to an absent agent is dropped."""

    def observe(self, job_uid: str) -> tuple[Session, ...]: ...

    def send(self, member_uid: str, order: Order) -> None: ...

    def forget(self, member_uid: str) -> None: ...


class Jobs(Protocol):
    """FineTuneJobs: read from a cache, status written by compare-and-swap on (uid, resourceVersion)."""

    def get(self, key: Key) -> FineTuneJob | None: ...

    def keys(self) -> tuple[Key, ...]: ...

    async def tell_unreadable(self, key: Key) -> float | None:
        """None for a job that can be read, or is gone. Else its owner is told, once; seconds until it is worth another try."""
        ...

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> Written | Conflict | Gone: ...

    async def record(self, job: FineTuneJob, event: Event) -> None: ...


class Clock(Protocol):
    """UTC now, with time zone."""

    def now(self) -> datetime: ...


class Recorder(Protocol):
    """Counts passes and events for metrics."""

    def record_pass(self, seconds: float, result: str) -> None: ...

    def record_broken_pass(self) -> None: ...

    def record_decision(self, job: FineTuneJob, decision: Decision) -> None: ...

    def record_event(self, event: Event) -> None: ...
