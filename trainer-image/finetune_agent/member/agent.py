"""The life of one member: prepare, then take orders until one of them, a signal or the end of all work ends it.

PREPARING --inputs and zygote--> READY --start--> a formation --stop--> STOPPED --start--> ... --exit--> exit code
SIGTERM at any time: leaving, commit the newest snapshot, train on until stop, exit or just before the deadline
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from random import Random
from typing import Any

from finetune_agent.launching.client import Workers
from finetune_agent.member.channel import Channel
from finetune_agent.member.formation import Formation
from finetune_agent.member.last_words import write_last_words
from finetune_agent.member.probes import is_reachable, listen, port_of
from finetune_agent.member.seals import Seals, find_broken, seal
from finetune_agent.member.voice import Voice
from finetune_agent.preparing.client import transfer_inputs
from finetune_agent.preparing.messages import ReadyInputs
from finetune_agent.processes.memory_file import open_memory_file
from finetune_agent.settings import Settings
from finetune_agent.tracking.client import Tracking
from finetune_agent.uploading.client import Uploads
from finetune_agent.uploading.messages import Unasked
from finetune_contract.beat import Beat
from finetune_contract.config import JobConfig
from finetune_contract.failures import ExitCode, FailureClass, FailureReport, TrainingError
from finetune_contract.messages import Committed, Hello, MemberPhase, Probed, StorageState, Warned
from finetune_contract.orders import Commit, Exit, Inspect, Order, Probe, Start, Stop
from finetune_contract.slots import SlotFile
from finetune_contract.times import ALONE_SECONDS, LAST_SAVE_SECONDS, PUBLISH_SECONDS, TRACKING_FAREWELL_SECONDS

_log = logging.getLogger(__name__)


class Agent:
    """`run` once; its result is the exit code. `leave` is what SIGTERM calls."""

    def __init__(self, *, config: JobConfig, settings: Settings, environment: Mapping[str, str], random: Random) -> None:
        self._config, self._settings = config, settings
        slots_fd, beat_fd = open_memory_file(settings.state_folder), open_memory_file(settings.state_folder)
        Beat.reserve(beat_fd)
        self._beat, slots = Beat(beat_fd), SlotFile(slots_fd)
        self._channel = Channel(
            folder=settings.channel_folder,
            token_file=settings.token_file,
            hello=self._hello,
            obey=self._obey,
            random=random,
        )
        self._tracking = Tracking(is_wanted=bool(config.tracking.report_to), tmp_folder=settings.tmp_folder, hear=self._hear)
        self._voice = Voice(
            settings=settings, job_uid=config.job.uid, slots=slots, send=self._channel.send, tracking=self._tracking, random=random
        )
        self._workers = Workers(settings=settings, environment=environment, slots_fd=slots_fd, beat_fd=beat_fd)
        self._uploads = Uploads(slots_fd=slots_fd, hear=self._hear)
        self._inputs: ReadyInputs | None = None
        self._seals: Seals = {}
        self._formation: Formation | None = None
        self._running: asyncio.Task[None] | None = None
        self._orders: asyncio.Queue[Start | Stop] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._is_leaving = False
        self._is_saver = False  # node rank 0 of the newest formation: saves on stop

    async def run(self) -> int:
        server = await listen(self._settings.address)
        self._voice.probe_port = port_of(server)
        for part in (
            self._channel.run(),
            self._workers.run(),
            self._uploads.run(),
            self._prepare(),
            self._take_orders(),
            self._watch_solitude(),
        ):
            self._spawn(part)
        try:
            code = await self._ending
            await self._channel.flush(PUBLISH_SECONDS)
            return code
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._tracking.close(self._voice.outcome, seconds=PUBLISH_SECONDS if self._is_leaving else TRACKING_FAREWELL_SECONDS)
            await self._uploads.close()
            await self._workers.close()
            await self._workers.end()

    def leave(self) -> None:
        """SIGTERM: the member has the grace period left. A second one changes nothing."""
        if not self._is_leaving:
            self._is_leaving = True
            self._spawn(self._leave())

    def _hello(self) -> Hello:
        return self._voice.hello()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        _log.error("a part of the agent failed", exc_info=error)
        message = error.message if isinstance(error, TrainingError) else f"the agent failed: {type(error).__name__}: {error}"
        report = FailureReport(failure_class=FailureClass.INTERNAL, message=message)
        self._voice.fail(report)
        self._end(ExitCode.FAILED, report)

    def _end(self, code: int, last_words: FailureReport | None = None) -> None:
        if last_words is not None:
            write_last_words(self._settings.termination_log, last_words)
        if not self._ending.done():
            self._ending.set_result(code)

    def _hear(self, report: Unasked) -> None:
        if isinstance(report, Committed):
            self._voice.committed(report)
        elif isinstance(report, StorageState):
            self._voice.storage_changed(report)
        else:
            _log.warning("%s: %s", report.reason, report.message)
            self._voice.say(report)

    async def _prepare(self) -> None:
        self._voice.enter(MemberPhase.PREPARING)
        try:
            done = await transfer_inputs(tell_bytes=self._voice.prepared, warn=self._hear)
        except TrainingError as error:
            report = FailureReport(failure_class=error.failure_class, message=error.message)
            write_last_words(self._settings.termination_log, report)
            self._voice.fail(report)
            self._voice.enter(MemberPhase.FAILED)
            return
        if done.output is not None:
            self._voice.publish(done.output)
            self._voice.enter(MemberPhase.FINISHED)
            return
        await self._workers.wait_ready()
        assert done.inputs is not None
        self._inputs, self._voice.inputs, self._seals = done.inputs, done.inputs.digests, seal(done.inputs)
        self._voice.enter(MemberPhase.READY)

    def _obey(self, order: Order) -> None:
        """Refuse what is outdated; do what is quick at once; the rest waits its turn."""
        name = {"order": order.type, "formation": self._voice.formation}
        if order.term < self._voice.term:
            _log.warning("order of term %d refused: term %d was seen", order.term, self._voice.term, extra=name)
            return
        self._voice.term = order.term
        if isinstance(order, Start | Stop):
            self._orders.put_nowait(order)
        elif isinstance(order, Commit):
            self._spawn(self._commit(order.deadline_seconds))
        elif isinstance(order, Probe):
            self._spawn(self._probe(order))
        elif isinstance(order, Inspect):
            if self._formation is not None:
                self._formation.dump_stacks()
        elif isinstance(order, Exit):
            self._exit(order.why)

    async def _take_orders(self) -> None:
        while True:
            order = await self._orders.get()
            if isinstance(order, Start):
                await self._start(order)
            else:
                await self._stop(order)

    async def _start(self, order: Start) -> None:
        if order.formation <= self._voice.formation or self._is_leaving or self._inputs is None or self._voice.output is not None:
            newest = f"formation {self._voice.formation}, phase {self._voice.phase.value}"
            _log.warning("start refused: %s", newest, extra={"formation": order.formation, "order": "start"})
            return
        if (broken := find_broken(self._seals)) is not None:
            message = f"{broken}; another member takes the place of this one and fetches it again"
            self._end(ExitCode.FAILED, FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message))
            return
        if self._formation is not None:
            self._formation.is_handed_over = True
        await self._end_formation()
        self._voice.formation, self._voice.failure, self._voice.progress = order.formation, None, None
        self._is_saver = order.node_rank == 0
        if not self._is_saver:
            self._tracking.pause()
        self._formation = Formation(
            order,
            config=self._config,
            settings=self._settings,
            inputs=self._inputs,
            voice=self._voice,
            workers=self._workers,
            uploads=self._uploads,
        )
        self._running = self._spawn(self._formation.run(self._beat))

    async def _stop(self, order: Stop) -> None:
        if order.formation < self._voice.formation:
            extra = {"formation": order.formation, "order": "stop"}
            _log.warning("stop refused: formation %d is newer", self._voice.formation, extra=extra)
            return
        if self._voice.phase in {MemberPhase.PREPARING, MemberPhase.FINISHED}:
            self._voice.enter(self._voice.phase)
            return
        _log.info("stop: %s", order.why, extra={"formation": order.formation, "order": "stop"})
        self._voice.formation = order.formation
        await self._end_formation()
        self._uploads.rest()
        if order.save and self._is_saver:
            await self._commit(order.deadline_seconds)
        self._voice.enter(MemberPhase.STOPPED)

    async def _end_formation(self) -> None:
        running, self._running, self._formation = self._running, None, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    async def _commit(self, deadline_seconds: float) -> None:
        newest = self._voice.snapshot
        committed = await self._uploads.commit_newest(deadline_seconds)
        if newest is not None and (committed is None or committed.order < newest.order):
            message = f"step {newest.step} could not be committed within {deadline_seconds:.0f} s; it stays in this member's memory"
            self._hear(Warned(reason="CommitLate", message=message))

    async def _probe(self, order: Probe) -> None:
        self._voice.say(Probed(peer_uid=order.peer_uid, reachable=await is_reachable(order.address)))

    def _exit(self, why: str) -> None:
        _log.info("exit: %s", why, extra={"order": "exit"})
        if self._voice.phase is MemberPhase.FINISHED:
            self._end(ExitCode.FINISHED)
        elif self._voice.failure is not None:
            self._end(ExitCode.LEAVING, self._voice.failure)
        else:
            self._end(ExitCode.LEAVING, FailureReport(failure_class=FailureClass.DISRUPTED, message=f"told to exit: {why}"))

    async def _leave(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.grace_seconds
        self._voice.leave(self._settings.grace_seconds, lambda: max(deadline - clock(), 0.0))
        _log.info("told to end, %.0f s left", self._settings.grace_seconds)
        early = self._spawn(self._commit_quietly(self._settings.grace_seconds - LAST_SAVE_SECONDS))
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=self._settings.grace_seconds - LAST_SAVE_SECONDS)
        await self._end_formation()
        await asyncio.wait({early}, timeout=max(deadline - clock() - PUBLISH_SECONDS, 0))
        if self._voice.is_behind:
            await self._uploads.commit_newest(max(deadline - clock() - PUBLISH_SECONDS, 0))
        if self._voice.phase is MemberPhase.FINISHED:
            self._end(ExitCode.FINISHED)
            return
        if self._voice.is_behind:
            self._hear(Warned(reason="CommitLate", message=self._voice.describe_lag()))
        self._end(ExitCode.LEAVING, FailureReport(failure_class=FailureClass.DISRUPTED, message="the member was told to end (SIGTERM)"))

    async def _commit_quietly(self, seconds: float) -> None:
        await self._uploads.commit_newest(seconds)

    async def _watch_solitude(self) -> None:
        """A member without work and without a coordinator ends by itself: its last words and exit code tell the rest."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(1.0)
            lost_at = self._channel.lost_at
            is_idle = self._voice.phase is MemberPhase.FINISHED or (self._voice.phase is MemberPhase.FAILED and self._inputs is None)
            if not is_idle or lost_at is None or clock() - max(lost_at, self._voice.changed_at) < ALONE_SECONDS:
                continue
            _log.info("no coordinator for %.0f s and nothing left to do", ALONE_SECONDS)
            is_finished = self._voice.phase is MemberPhase.FINISHED
            self._end(ExitCode.FINISHED if is_finished else ExitCode.FAILED, self._voice.failure)
            return
