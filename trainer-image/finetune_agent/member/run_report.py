"""What this member says of the run that it works in: one state, each change of it told at once under the run's id."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from finetune_agent.member.last_words import write_last_words
from finetune_agent.tracking.client import Tracking
from finetune_agent.tracking.messages import Outcome
from finetune_contract.failures import FailureReport
from finetune_contract.last_words import Finished
from finetune_contract.messages import Failed, MemberPhase, OfRun, PhaseChanged
from finetune_contract.reports import Committed, Output, Progress, StorageState, Warned
from finetune_contract.run_order import WorkerPrepared
from finetune_contract.slots import SlotFile
from finetune_contract.state import InputDigests, StateId, newest_state
from finetune_contract.values import Value, changed

_log = logging.getLogger(__name__)


class RunReport:
    """`uid` is that of the run's job. `send` may drop what is said; the state is kept, so the next hello makes up for it."""

    def __init__(
        self, *, uid: str, slots: SlotFile, send: Callable[[Value], None], tracking: Tracking, termination_log: Path | None
    ) -> None:
        self.uid = uid
        self._slots, self._send, self._termination_log = slots, send, termination_log
        self.tracking = tracking
        self.phase = MemberPhase.PREPARING
        self.changed_at = 0.0  # loop time of the last change of phase
        self.formation = 0
        self.commit: StateId | None = None
        self.storage: StorageState | None = None
        self.inputs: InputDigests | None = None
        self.progress: Progress | None = None
        self.failure: FailureReport | None = None
        self.failed_formation: int | None = None
        self.output: Output | None = None

    @property
    def snapshot(self) -> StateId | None:
        return self._slots.newest_id()

    @property
    def outcome(self) -> Outcome:
        """What a tracker calls the end of this member."""
        if self.phase is MemberPhase.FINISHED:
            return "finished"
        return "preempted" if self.failure is None else "failed"

    @property
    def is_behind(self) -> bool:
        """The newest snapshot is not committed, as far as this member knows."""
        newest = self.snapshot
        return newest is not None and (self.commit is None or self.commit.order < newest.order)

    def describe_lag(self) -> str:
        """For a member that ends while it is behind."""
        before = "its run has no commit" if self.commit is None else f"its newest commit holds step {self.commit.step}"
        step = 0 if self.snapshot is None else self.snapshot.step
        return f"step {step} could not be committed before this member ended, {before}; steps that no other member holds are computed again"

    def tell(self, message: OfRun) -> None:
        self._send(changed(message, run=self.uid))

    def warn(self, warned: Warned) -> None:
        _log.warning("%s: %s", warned.reason, warned.message)
        self.tell(warned)

    def enter(self, phase: MemberPhase, *, resumed_step: int | None = None, first_step_seconds: float | None = None) -> None:
        """Change the phase and tell it with all that belongs to it."""
        if phase is not self.phase:
            _log.info("%s", phase.value, extra={"formation": self.formation, "phase": phase.value})
            self.changed_at = asyncio.get_running_loop().time()
        self.phase = phase
        self.tell(
            PhaseChanged(
                phase=phase,
                formation=self.formation,
                inputs=self.inputs,
                snapshot=self.snapshot,
                commit=self.commit,
                resumed_step=resumed_step,
                first_step_seconds=first_step_seconds,
                output=self.output,
            )
        )

    def stepped(self, progress: Progress) -> None:
        """Every step of node rank 0; what of it goes to the coordinator is the formation's to say."""
        self.progress = progress
        self.tracking.offer(progress)

    def prepared(self, bytes_done: int, bytes_total: int | None) -> None:
        self.tell(PhaseChanged(phase=MemberPhase.PREPARING, formation=0, bytes_done=bytes_done, bytes_total=bytes_total))

    def made_tokens(self, prepared: WorkerPrepared) -> None:
        self.tell(PhaseChanged(phase=self.phase, formation=self.formation, rows_done=prepared.rows_done, rows_total=prepared.rows_total))

    def publish(self, output: Output) -> None:
        """The adapter is complete. Written down at once: whatever ends this member now, the job is done."""
        self.output = output
        write_last_words(self._termination_log, Finished(formation=self.formation, output=output, progress=self.progress))

    def fail(self, report: FailureReport) -> None:
        _log.error("%s: %s", report.failure_class.value, report.message, extra={"formation": self.formation})
        self.failure, self.failed_formation = report, self.formation
        self.tell(Failed(formation=self.formation, report=report, snapshot=self.snapshot))

    def committed(self, committed: Committed) -> None:
        self.commit = newest_state(self.commit, committed.state)
        self.tell(committed)

    def storage_changed(self, storage: StorageState) -> None:
        self.storage = storage
        self.tell(storage)
