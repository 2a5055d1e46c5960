"""Who places a gang: the answers that depend on it, in one value. Rules ask `gang.policy`, never which policy it is.

Natively gangs place themselves: they queue, make room for each other, and count no capacity.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.facts.gang_spec import GangSpec
from finetune_operator.decide.facts.line import (
    do_others_wait,
    is_luxury_due,
    line_entry,
    seconds_of_backoff,
    who_is_ahead,
    who_is_called,
)
from finetune_operator.decide.facts.observed import LineEntry, Observed, PodView


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Why a gang may not have pods yet, in words for its owner; `seconds` until it may have them if nothing changes before."""

    reason: str
    message: str
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class PodDecoration:
    """What a pod carries for those who place it. It goes before what the job asks for, and after the operator's own labels."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    scheduling_gates: tuple[str, ...] = ()


UNDECORATED = PodDecoration()
WAITS_FOR_OTHERS = Wait(
    reason="WaitsForOthers",
    message="it waits in the queue; gangs of higher priority, and older ones of the same, are placed first",
)


class PlacementPolicy(Protocol):
    """Every answer is pure: what a policy has to know beyond `observed`, it was made from."""

    @property
    def replaces_before_break(self) -> bool:
        """A leaving member gets its replacement while it is still there. False: when it has ended, or nobody reaches it."""
        ...

    @property
    def gives_back(self) -> bool:
        """A gang that finds no room gives its pods back, and spares make way, because others may wait for what they hold."""
        ...

    def line_entry(self, job: FineTuneJob, pods: tuple[PodView, ...], now: datetime) -> LineEntry | None:
        """The place of the gang in the queue of the native ones; None for a gang that they need not wait for."""
        ...

    def why_not_yet(self, observed: Observed, job: FineTuneJob) -> Wait | None:
        """What a gang without members waits for; None: it may be placed."""
        ...

    def allows_extras(self, observed: Observed, job: FineTuneJob, spec: GangSpec) -> bool:
        """Pods beyond nodes.min may be asked for now; those without a node are given back while they may not."""
        ...

    def allows_spares(self, observed: Observed, job: FineTuneJob, spec: GangSpec) -> bool:
        """Spares may be asked for now."""
        ...

    def decoration_of(self, job: FineTuneJob, serial: int) -> PodDecoration: ...


@dataclass(frozen=True)
class NativePlacement:
    """Optimistic, in order of priority and age; luxury only while nobody waits."""

    replaces_before_break: bool = True
    gives_back: bool = True

    def line_entry(self, job: FineTuneJob, pods: tuple[PodView, ...], now: datetime) -> LineEntry | None:
        return line_entry(job, pods, now)

    def why_not_yet(self, observed: Observed, job: FineTuneJob) -> Wait | None:
        """It backs off, unless room came back and it is called, or an earlier gang finds no room."""
        placement = job.status.placement
        seconds = seconds_of_backoff(placement.backoff_until, observed.now)
        if seconds > 0 and who_is_called(observed.line, observed.freed_at, observed.now) != job.key:
            return Wait(reason="BackingOff", message=placement.why or "it backs off", seconds=seconds)
        return None if who_is_ahead(observed, job.key) is None else WAITS_FOR_OTHERS

    def allows_extras(self, observed: Observed, job: FineTuneJob, spec: GangSpec) -> bool:
        return is_luxury_due(observed, job.key, spec.priority)

    def allows_spares(self, observed: Observed, job: FineTuneJob, spec: GangSpec) -> bool:
        return not do_others_wait(observed, job.key)

    def decoration_of(self, job: FineTuneJob, serial: int) -> PodDecoration:
        return UNDECORATED


NATIVE: PlacementPolicy = NativePlacement()


def policy_of(job: FineTuneJob) -> PlacementPolicy:
    """Every job is placed natively."""
    return NATIVE
