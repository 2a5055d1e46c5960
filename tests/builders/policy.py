"""A second policy of placement, as unlike the native one as can be: somebody else hands out tickets, and opens the gates of pods."""

from dataclasses import dataclass, field
from datetime import datetime

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.facts.gang_spec import GangSpec
from finetune_operator.decide.facts.observed import LineEntry, Observed, PodView
from finetune_operator.decide.facts.policy import NATIVE, PlacementPolicy, PodDecoration, Wait

GATE = "tickets.example/hold"
LABEL = "tickets.example/gang"
NO_TICKET = Wait(reason="NoTicket", message="no ticket was drawn for this job", seconds=60.0)


@dataclass(frozen=True, kw_only=True)
class TicketPlacement:
    """`drawn` are names of jobs: theirs is a place, whoever waits."""

    drawn: set[str] = field(default_factory=set)
    replaces_before_break: bool = False
    gives_back: bool = False

    def line_entry(self, job: FineTuneJob, pods: tuple[PodView, ...], now: datetime) -> LineEntry | None:
        return None

    def why_not_yet(self, observed: Observed, job: FineTuneJob) -> Wait | None:
        return None if job.metadata.name in self.drawn else NO_TICKET

    def allows_extras(self, observed: Observed, job: FineTuneJob, spec: GangSpec) -> bool:
        return f"{job.metadata.name} extras" in self.drawn

    def allows_spares(self, observed: Observed, job: FineTuneJob, spec: GangSpec) -> bool:
        return False

    def decoration_of(self, job: FineTuneJob, serial: int) -> PodDecoration:
        return PodDecoration(labels={LABEL: job.metadata.name}, annotations={"tickets.example/seat": str(serial)}, scheduling_gates=(GATE,))

    def policy_of(self, job: FineTuneJob) -> PlacementPolicy:
        """Of jobs named after it; all others are placed natively."""
        return self if job.metadata.name.startswith("ticket") else NATIVE
