"""The local ranks of one formation as their events tell: who runs, who is done, whose end explains the others' ends."""

import contextlib
import os
import signal
from dataclasses import dataclass, field

from finetune_contract.failures import FailureKind, FailureReport, kind_of


@dataclass
class LocalRanks:
    """`num_local` ranks are expected, the first of them is rank `first`; reports keep the order in which they came."""

    num_local: int
    first: int = 0
    pids: dict[int, int] = field(default_factory=dict)  # local rank -> pid
    done: set[int] = field(default_factory=set)
    reports: list[FailureReport] = field(default_factory=list)

    @property
    def are_done(self) -> bool:
        return len(self.done) == self.num_local

    @property
    def pids_by_rank(self) -> dict[int, int]:
        return {self.first + local_rank: pid for local_rank, pid in self.pids.items()}

    def dump_stacks(self) -> None:
        """Ask every worker to write its stacks to the log."""
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def add(self, report: FailureReport) -> None:
        """The first report of a rank wins: its own words come before what the launcher saw of its exit."""
        if report.rank is None or report.rank not in {known.rank for known in self.reports}:
            self.reports.append(report)

    @property
    def cause(self) -> FailureReport | None:
        """The report that explains the end best: any that is not the loss of a peer, else the first."""
        causes = [report for report in self.reports if kind_of(report) is not FailureKind.VICTIM]
        return next(iter(causes + self.reports), None)

    @property
    def is_certain(self) -> bool:
        return self.cause is not None and kind_of(self.cause) is not FailureKind.VICTIM
