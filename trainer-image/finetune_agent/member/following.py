"""Follows the workers of one launch until all are done or one failed: what they report is told, what they do not report is judged."""

import asyncio
import contextlib
import os
import signal

from finetune_agent.launching.client import Launch
from finetune_agent.launching.messages import LauncherEnded, LaunchEvent, LaunchRefused, WorkerForked
from finetune_agent.member.beat_watch import BeatWatch
from finetune_agent.member.local_ranks import LocalRanks
from finetune_agent.member.progress_gate import ProgressGate
from finetune_agent.member.run_report import RunReport
from finetune_agent.member.sigstop import SigstopDetector
from finetune_contract.beat import Beat
from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.reports import Warned
from finetune_contract.run_order import (
    WorkerDone,
    WorkerExported,
    WorkerFailure,
    WorkerPhase,
    WorkerPrepared,
    WorkerProgress,
    WorkerWarning,
)
from finetune_contract.times import BETTER_REPORT_SECONDS, FORMATION_TICK_SECONDS

_PHASES = {
    "loading": MemberPhase.STARTING,
    "preparing": MemberPhase.STARTING,
    "first_step": MemberPhase.STARTING,
    "training": MemberPhase.TRAINING,
    "evaluating": MemberPhase.EVALUATING,
    "exporting": MemberPhase.EXPORTING,
}


class Following:
    """`run` once. `ranks` is kept up to date; `exported` is there when rank 0 has written the adapter."""

    def __init__(self, launch: Launch, *, ranks: LocalRanks, beat: Beat, run: RunReport) -> None:
        self._launch, self._ranks, self._run = launch, ranks, run
        self._watch = BeatWatch(beat=beat, num_local=ranks.num_local, clock=asyncio.get_running_loop().time)
        self._gate = ProgressGate(tell=run.tell)
        self._resumed_step: int | None = None
        self._loaded_at: float | None = None
        self._first_step_seconds: float | None = None
        self.exported: WorkerExported | None = None

    async def run(self) -> FailureReport | None:
        """Until all local ranks are done (None) or one failed."""
        try:
            return await self._follow()
        finally:
            self._gate.close()

    async def _follow(self) -> FailureReport | None:
        clock, sigstop = asyncio.get_running_loop().time, SigstopDetector()
        decide_at: float | None = None
        while not self._ranks.are_done:
            # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with an event.
            event = await _next_event(self._launch, FORMATION_TICK_SECONDS if decide_at is None else BETTER_REPORT_SECONDS)
            if event is not None:
                if isinstance(event, LauncherEnded | LaunchRefused):
                    return await self._explain_end(event)
                self._take(event)
            if self._ranks.is_certain or (decide_at is not None and clock() > decide_at):
                return self._ranks.cause
            if self._ranks.cause is not None and decide_at is None:
                decide_at = clock() + BETTER_REPORT_SECONDS
            if (hang := self._watch.judge(self._ranks.done, self._ranks.first)) is not None:
                self._ranks.dump_stacks()
                await asyncio.sleep(FORMATION_TICK_SECONDS)  # faulthandler writes meanwhile
                return hang
            if event is None and (stopped := sigstop.judge(self._ranks.pids_by_rank, self._ranks.done)) is not None:
                return stopped
        return None

    def _take(self, event: LaunchEvent) -> None:
        if isinstance(event, WorkerForked):
            self._ranks.pids[event.local_rank] = event.pid
        elif isinstance(event, WorkerPhase):
            self._enter(event)
        elif isinstance(event, WorkerPrepared):
            self._run.made_tokens(event)
        elif isinstance(event, WorkerProgress):
            self._run.stepped(event.progress)
            self._gate.offer(event.progress)
        elif isinstance(event, WorkerFailure):
            self._ranks.add(event.report)
        elif isinstance(event, WorkerWarning):
            self._run.tell(Warned(reason=event.reason, message=event.message))
        elif isinstance(event, WorkerExported):
            self.exported = event
        elif isinstance(event, WorkerDone):
            self._ranks.done.add(event.rank)

    def _enter(self, event: WorkerPhase) -> None:
        self._watch.enter(event)
        self._resumed_step = event.resumed_step if event.resumed_step is not None else self._resumed_step
        self._time_the_first_step(event)
        phase, is_training = _PHASES[event.phase], event.phase == "training"
        self._run.enter(
            phase,
            resumed_step=self._resumed_step if is_training else None,
            first_step_seconds=self._first_step_seconds if is_training else None,
        )

    def _time_the_first_step(self, event: WorkerPhase) -> None:
        now = asyncio.get_running_loop().time()
        if event.phase == "first_step":
            self._loaded_at = now
        elif event.phase == "training" and self._loaded_at is not None and self._first_step_seconds is None:
            self._first_step_seconds = round(now - self._loaded_at, 3)

    async def _explain_end(self, end: LauncherEnded | LaunchRefused) -> FailureReport | None:
        """The launcher is gone: take what is left in the pipe, then judge. None if all ranks were done after all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BETTER_REPORT_SECONDS):
                await self._launch.pipe_ended.wait()
        while not self._launch.events.empty():
            event = self._launch.events.get_nowait()
            if isinstance(event, WorkerFailure | WorkerDone | WorkerExported):
                self._take(event)
        if self._ranks.are_done:
            return None
        if self._ranks.cause is not None:
            return self._ranks.cause
        if isinstance(end, LaunchRefused):
            return FailureReport(failure_class=FailureClass.INTERNAL, message=end.why)
        name = signal.Signals(os.WTERMSIG(end.status)).name if os.WIFSIGNALED(end.status) else None
        how = f"by {name}" if name is not None else f"with exit code {os.waitstatus_to_exitcode(end.status)}"
        message = f"the launcher of this member was ended {how} before its workers were done"
        return FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message, signal=name)


async def _next_event(launch: Launch, seconds: float) -> LaunchEvent | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await launch.events.get()
    return None
