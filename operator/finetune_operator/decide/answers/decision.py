"""The answer of one pass as one value: print it, compare it, assert it."""

from dataclasses import dataclass
from typing import Literal

from finetune_contract.orders import Order
from finetune_operator.api.status import JobStatus


@dataclass(frozen=True, kw_only=True)
class Event:
    """A Kubernetes event on the job; emitted on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class DeleteMember:
    """Delete this pod, by uid. `grace_seconds` None: the pod's own grace; 0: force, only after fencing."""

    uid: str
    name: str
    grace_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class SendOrder:
    """An order for the agent of one member."""

    member_uid: str
    order: Order


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, in the order in which it is applied: status, creations, deletions, orders, events."""

    status: JobStatus
    create: tuple[int, ...] = ()  # serials, all listed in status.members
    delete: tuple[DeleteMember, ...] = ()
    orders: tuple[SendOrder, ...] = ()
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None
