"""One formation as one member lives it, top to bottom: fetch a newer commit, fork, follow the workers, publish or report.

Whoever ends it early cancels `run`; nothing of it is alive when `run` is over.

    STARTING -> TRAINING <-> EVALUATING -> EXPORTING -> FINISHED
        any failure: Failed, workers killed, FAILED
"""

import asyncio
import contextlib
import logging
import os
import signal

from finetune_agent.launching.client import Launch, Workers
from finetune_agent.launching.messages import LauncherEnded, LaunchEvent, LaunchRefused, WorkerForked
from finetune_agent.member.beat_watch import BeatWatch
from finetune_agent.member.between_steps import stop_between_steps
from finetune_agent.member.progress_gate import ProgressGate
from finetune_agent.member.ranks import Ranks
from finetune_agent.member.stopped import StopWatch
from finetune_agent.member.voice import Voice
from finetune_agent.preparing.messages import ReadyInputs
from finetune_agent.settings import Settings
from finetune_agent.uploading.client import Uploads
from finetune_agent.uploading.messages import Publish
from finetune_contract.beat import Beat
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, FailureReport, TrainingError
from finetune_contract.messages import MemberPhase, Warned
from finetune_contract.orders import Start
from finetune_contract.run_order import (
    RunOrder,
    WorkerDone,
    WorkerExported,
    WorkerFailure,
    WorkerPhase,
    WorkerPrepared,
    WorkerProgress,
    WorkerWarning,
)
from finetune_contract.state import StateId, newest_state
from finetune_contract.times import BETTER_REPORT_SECONDS, FORMATION_TICK_SECONDS

_PHASES = {
    "loading": MemberPhase.STARTING,
    "preparing": MemberPhase.STARTING,
    "first_step": MemberPhase.STARTING,
    "training": MemberPhase.TRAINING,
    "evaluating": MemberPhase.EVALUATING,
    "exporting": MemberPhase.EXPORTING,
}
_log = logging.getLogger(__name__)


class Formation:
    """`run` once. All parts are the agent's; a formation owns only its launch."""

    def __init__(
        self, start: Start, *, config: JobConfig, settings: Settings, inputs: ReadyInputs, voice: Voice, workers: Workers, uploads: Uploads
    ) -> None:
        self.start = start
        self._config, self._settings, self._inputs = config, settings, inputs
        self._voice, self._workers, self._uploads = voice, workers, uploads
        self._ranks = Ranks(num_local=config.gang.processes_per_node)
        self._first_rank = start.node_rank * config.gang.processes_per_node
        self._gate = ProgressGate(tell=voice.say)
        self._exported: WorkerExported | None = None
        self._resumed_step: int | None = None
        self._loaded_at: float | None = None
        self._first_step_seconds: float | None = None
        self.is_handed_over = False  # another formation takes over while this one trains

    async def run(self, beat: Beat) -> None:
        try:
            self._voice.enter(MemberPhase.STARTING)
            self._refuse_other_inputs()
            resumed_from = await self._fetch_newer_commit()
            launch = await self._workers.launch(self._order())
            if self.start.node_rank == 0:
                self._uploads.follow(self.start.formation, resumed_from)
            else:
                self._uploads.rest()
            watch = BeatWatch(beat=beat, num_local=self._ranks.num_local, clock=asyncio.get_running_loop().time)
            report = await self._follow(launch, watch)
            if report is None:
                await self._finish()
            else:
                await self._fail(report)
        except TrainingError as error:
            await self._fail(FailureReport(failure_class=error.failure_class, message=error.message))
        finally:
            self._gate.close()
            if self.is_handed_over and (writer := self._ranks.pids.get(0)) is not None:
                await stop_between_steps(writer, lambda: not beat.owes_snapshot(0))
            await self._end_workers()

    def dump_stacks(self) -> None:
        """Ask every worker to write its stacks to the log."""
        for pid in self._ranks.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def _refuse_other_inputs(self) -> None:
        pinned, own = self.start.inputs, self._inputs.digests
        if pinned is None or pinned == own:
            return
        is_model = (pinned.model, pinned.model_revision) != (own.model, own.model_revision)
        field, uri = ("spec.model.uri", self._config.model.uri) if is_model else ("spec.dataset.uri", self._config.dataset.uri)
        before, now = (pinned.model, own.model) if is_model else (pinned.dataset, own.dataset)
        what = f"the {'model' if is_model else 'data'} at {uri} changed since this job was admitted (sha256 {before[:12]}, now {now[:12]})"
        raise TrainingError(FailureClass.USER_ERROR, f"{field}: {what}; put the old bytes back, or make a new job from the new ones")

    async def _fetch_newer_commit(self) -> StateId | None:
        """Only node rank 0, and only where the newest state is not in a slot of some member already. Returns what is resumed from."""
        hint, own = self.start.resume, self._voice.snapshot
        is_held = hint is not None and (self.start.resume_node_rank is not None or (own is not None and own.order >= hint.order))
        if self.start.node_rank != 0 or is_held or (hint is None and own is not None):
            return newest_state(hint, own)
        loaded = await self._uploads.load_newest(newer_than=own, inputs=self._inputs.digests)
        if loaded is not None:
            _log.info("commit loaded", extra={"formation": loaded.formation, "step": loaded.step})
        elif hint is not None and own is None:
            message = f"no commit verifies, though step {hint.step} was reported: training starts again from step 0"
            self._voice.say(Warned(reason="CommitLost", message=message))
        return newest_state(loaded, own)

    def _order(self) -> RunOrder:
        output = self._settings.output_folder / f"f{self.start.formation:06d}"
        output.mkdir(parents=True, exist_ok=True)
        return RunOrder(
            config=self._config,
            overrides=self.start.overrides,
            formation=self.start.formation,
            node_rank=self.start.node_rank,
            num_nodes=len(self.start.peers),
            processes_per_node=self._config.gang.processes_per_node,
            master_address=self.start.master_address,
            master_port=self.start.master_port,
            model_dir=self._inputs.model_dir,
            dataset_files=self._inputs.dataset_files,
            eval_files=self._inputs.eval_files,
            cache_dir=str(self._settings.cache_folder),
            output_dir=str(output),
            model_digest=self._inputs.digests.model,
            dataset_digest=self._inputs.digests.dataset,
            model_revision=self._inputs.digests.model_revision,
            slots_fd=None,
            beat_fd=None,
            events_fd=None,
            store_secret=self.start.store_secret,
        )

    async def _follow(self, launch: Launch, watch: BeatWatch) -> FailureReport | None:
        """Until all local ranks are done (None) or one failed."""
        clock, stops = asyncio.get_running_loop().time, StopWatch()
        decide_at: float | None = None
        while not self._ranks.are_done:
            # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with an event.
            event = await _next_event(launch, FORMATION_TICK_SECONDS if decide_at is None else BETTER_REPORT_SECONDS)
            if event is not None:
                if isinstance(event, LauncherEnded | LaunchRefused):
                    return await self._explain_end(launch, event)
                self._take(event, watch)
            if self._ranks.is_certain or (decide_at is not None and clock() > decide_at):
                return self._ranks.cause
            if self._ranks.cause is not None and decide_at is None:
                decide_at = clock() + BETTER_REPORT_SECONDS
            if (hang := watch.judge(self._ranks.done, self._first_rank)) is not None:
                self.dump_stacks()
                await asyncio.sleep(FORMATION_TICK_SECONDS)  # faulthandler writes meanwhile
                return hang
            if event is None and (stopped := stops.judge(self._pids_by_rank(), self._ranks.done)) is not None:
                return stopped
        return None

    def _pids_by_rank(self) -> dict[int, int]:
        return {self._first_rank + local_rank: pid for local_rank, pid in self._ranks.pids.items()}

    def _take(self, event: LaunchEvent, watch: BeatWatch) -> None:
        if isinstance(event, WorkerForked):
            self._ranks.pids[event.local_rank] = event.pid
        elif isinstance(event, WorkerPhase):
            watch.enter(event)
            self._resumed_step = event.resumed_step if event.resumed_step is not None else self._resumed_step
            self._time_the_first_step(event)
            phase, is_training = _PHASES[event.phase], event.phase == "training"
            self._voice.enter(
                phase,
                resumed_step=self._resumed_step if is_training else None,
                first_step_seconds=self._first_step_seconds if is_training else None,
            )
        elif isinstance(event, WorkerPrepared):
            self._voice.made_tokens(event)
        elif isinstance(event, WorkerProgress):
            self._voice.stepped(event.progress)
            self._gate.offer(event.progress)
        elif isinstance(event, WorkerFailure):
            self._ranks.add(event.report)
        elif isinstance(event, WorkerWarning):
            self._voice.say(Warned(reason=event.reason, message=event.message))
        elif isinstance(event, WorkerExported):
            self._exported = event
        elif isinstance(event, WorkerDone):
            self._ranks.done.add(event.rank)

    def _time_the_first_step(self, event: WorkerPhase) -> None:
        now = asyncio.get_running_loop().time()
        if event.phase == "first_step":
            self._loaded_at = now
        elif event.phase == "training" and self._loaded_at is not None and self._first_step_seconds is None:
            self._first_step_seconds = round(now - self._loaded_at, 3)

    async def _explain_end(self, launch: Launch, end: LauncherEnded | LaunchRefused) -> FailureReport | None:
        """The launcher is gone: take what is left in the pipe, then judge. None if all ranks were done after all."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BETTER_REPORT_SECONDS):
                await launch.pipe_ended.wait()
        while not launch.events.empty():
            event = launch.events.get_nowait()
            if isinstance(event, WorkerFailure):
                self._ranks.add(event.report)
            elif isinstance(event, WorkerDone):
                self._ranks.done.add(event.rank)
            elif isinstance(event, WorkerExported):
                self._exported = event
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

    async def _finish(self) -> None:
        await self._end_workers()
        self._gate.close()
        self._uploads.rest()
        if self.start.node_rank == 0:
            exported = self._exported
            if exported is None:
                raise TrainingError(FailureClass.INTERNAL, "all ranks are done, but rank 0 did not say where the adapter is")
            self._voice.enter(MemberPhase.EXPORTING)
            self._voice.publish(await self._uploads.publish(lambda number: self._publish_request(number, exported)))
        self._voice.enter(MemberPhase.FINISHED)

    def _publish_request(self, number: int, exported: WorkerExported) -> Publish:
        return Publish(
            id=number,
            folder=str(self._settings.output_folder / f"f{self.start.formation:06d}"),
            formation=self.start.formation,
            step=exported.state.step,
            inputs=self._inputs.digests,
            first_loss=exported.first_loss,
            last_loss=exported.last_loss,
            eval_loss=exported.eval_loss,
            sample_digest=exported.sample_digest,
        )

    async def _fail(self, report: FailureReport) -> None:
        self._voice.fail(report)
        await self._end_workers()
        self._voice.enter(MemberPhase.FAILED)

    async def _end_workers(self) -> None:
        await self._workers.end(spared_trees=tuple(pid for pid in (self._uploads.pid, self._voice.tracking.pid) if pid is not None))


async def _next_event(launch: Launch, seconds: float) -> LaunchEvent | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await launch.events.get()
    return None
