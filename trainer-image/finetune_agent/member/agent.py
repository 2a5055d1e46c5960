"""The life of one member: prepare, then take orders until one of them, a signal or the end of all work ends it.

PREPARING --inputs and zygote--> READY --start--> a formation --stop--> STOPPED --start--> ... --exit--> exit code
"""

import logging
from collections.abc import Mapping
from random import Random

from finetune_agent.launching.client import Workers
from finetune_agent.member.channel import Channel
from finetune_agent.member.ending import Ending
from finetune_agent.member.last_words import write_last_words
from finetune_agent.member.probes import listen, port_of
from finetune_agent.member.run_report import RunReport
from finetune_agent.member.taken_orders import TakenOrders
from finetune_agent.member.tasks import Tasks
from finetune_agent.member.training import Training
from finetune_agent.member.voice import Voice
from finetune_agent.preparing.client import transfer_inputs
from finetune_agent.processes.memory_file import open_memory_file
from finetune_agent.settings import Settings
from finetune_agent.tracking.client import Tracking
from finetune_agent.uploading.client import Uploads
from finetune_agent.uploading.messages import Unasked
from finetune_contract.beat import Beat
from finetune_contract.config import JobConfig
from finetune_contract.failures import ExitCode, FailureClass, FailureReport, TrainingError
from finetune_contract.messages import MemberPhase
from finetune_contract.reports import Committed, StorageState
from finetune_contract.slots import SlotFile
from finetune_contract.times import PUBLISH_SECONDS, TRACKING_FAREWELL_SECONDS

_log = logging.getLogger(__name__)


class Agent:
    """`run` once; its result is the exit code. `leave` is what SIGTERM calls."""

    def __init__(self, *, config: JobConfig, settings: Settings, environment: Mapping[str, str], random: Random) -> None:
        self._settings = settings
        slots_fd, beat_fd = open_memory_file(settings.state_folder), open_memory_file(settings.state_folder)
        Beat.reserve(beat_fd)
        beat, slots = Beat(beat_fd), SlotFile(slots_fd)
        self._tasks = Tasks(self._fail)
        self._channel = Channel(folder=settings.channel_folder, token_file=settings.token_file, random=random)
        self._tracking = Tracking(is_wanted=bool(config.tracking.report_to), tmp_folder=settings.tmp_folder, hear=self._hear)
        self._run = RunReport(
            uid=config.job.uid,
            slots=slots,
            send=self._channel.send,
            tracking=self._tracking,
            termination_log=settings.termination_log,
        )
        self._voice = Voice(settings=settings, run=self._run, send=self._channel.send, random=random)
        self._workers = Workers(settings=settings, environment=environment, slots_fd=slots_fd, beat_fd=beat_fd)
        self._uploads = Uploads(slots_fd=slots_fd, hear=self._hear)
        self._training = Training(
            config=config,
            settings=settings,
            beat=beat,
            run=self._run,
            workers=self._workers,
            uploads=self._uploads,
            tasks=self._tasks,
        )
        self._ending = Ending(
            settings=settings,
            voice=self._voice,
            run=self._run,
            training=self._training,
            uploads=self._uploads,
            tasks=self._tasks,
        )
        self._orders = TakenOrders(
            voice=self._voice, run=self._run, training=self._training, uploads=self._uploads, ending=self._ending, tasks=self._tasks
        )

    async def run(self) -> int:
        server = await listen(self._settings.address)
        self._voice.probe_port = port_of(server)
        for part in (
            self._channel.run(hello=self._voice.hello, obey=self._orders.take),
            self._workers.run(),
            self._uploads.run(),
            self._prepare(),
            self._orders.run(),
            self._ending.watch_solitude(lambda: self._channel.lost_at),
        ):
            self._tasks.spawn(part)
        try:
            code = await self._ending.code
            await self._channel.flush(PUBLISH_SECONDS)
            return code
        finally:
            server.close()
            await self._tasks.cancel()
            seconds = PUBLISH_SECONDS if self._ending.is_leaving else TRACKING_FAREWELL_SECONDS
            await self._tracking.close(self._run.outcome, seconds=seconds)
            await self._uploads.close()
            await self._workers.close()
            await self._workers.end()

    def leave(self) -> None:
        self._ending.leave()

    def _hear(self, report: Unasked) -> None:
        if isinstance(report, Committed):
            self._run.committed(report)
        elif isinstance(report, StorageState):
            self._run.storage_changed(report)
        else:
            self._run.warn(report)

    def _fail(self, error: BaseException) -> None:
        """A part of the agent ended by an error: nobody knows what is left of this member."""
        _log.error("a part of the agent failed", exc_info=error)
        message = error.message if isinstance(error, TrainingError) else f"the agent failed: {type(error).__name__}: {error}"
        report = FailureReport(failure_class=FailureClass.INTERNAL, message=message)
        self._run.fail(report)
        self._ending.end(ExitCode.FAILED, report)

    async def _prepare(self) -> None:
        self._run.enter(MemberPhase.PREPARING)
        try:
            done = await transfer_inputs(tell_bytes=self._run.prepared, warn=self._run.warn)
        except TrainingError as error:
            report = FailureReport(failure_class=error.failure_class, message=error.message)
            write_last_words(self._settings.termination_log, report)
            self._run.fail(report)
            self._run.enter(MemberPhase.FAILED)
            return
        if done.output is not None:
            self._run.publish(done.output)
            self._run.enter(MemberPhase.FINISHED)
            return
        await self._workers.wait_ready()
        assert done.inputs is not None
        self._training.provide(done.inputs)
        self._run.enter(MemberPhase.READY)
