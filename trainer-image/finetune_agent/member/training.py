"""What a member trains: one formation after another, of which one at most is alive."""

import asyncio

from finetune_agent.launching.client import Workers
from finetune_agent.member.file_stamps import FileStamps, find_changed, take_stamps
from finetune_agent.member.formation import Formation
from finetune_agent.member.run_report import RunReport
from finetune_agent.member.tasks import Tasks
from finetune_agent.preparing.messages import ReadyInputs
from finetune_agent.settings import Settings
from finetune_agent.uploading.client import Uploads
from finetune_contract.beat import Beat
from finetune_contract.config import JobConfig
from finetune_contract.orders import Start


class Training:
    """Nothing can be trained before `provide`. The parts are the agent's."""

    def __init__(
        self, *, config: JobConfig, settings: Settings, beat: Beat, run: RunReport, workers: Workers, uploads: Uploads, tasks: Tasks
    ) -> None:
        self._config, self._settings, self._beat = config, settings, beat
        self._run, self._workers, self._uploads, self._tasks = run, workers, uploads, tasks
        self._inputs: ReadyInputs | None = None
        self._stamps: FileStamps = {}
        self._formation: Formation | None = None
        self._running: asyncio.Task[None] | None = None
        self.is_saver = False  # node rank 0 of the newest formation: saves on stop

    @property
    def has_inputs(self) -> bool:
        return self._inputs is not None

    def provide(self, inputs: ReadyInputs) -> None:
        self._inputs, self._run.inputs, self._stamps = inputs, inputs.digests, take_stamps(inputs)

    def find_changed_input(self) -> str | None:
        """Which input is not what it was when it was provided."""
        return find_changed(self._stamps)

    async def start(self, order: Start) -> None:
        assert self._inputs is not None
        if self._formation is not None:
            self._formation.is_handed_over = True
        await self.end()
        self._run.formation, self._run.failure, self._run.progress = order.formation, None, None
        self.is_saver = order.node_rank == 0
        if not self.is_saver:
            self._run.tracking.pause()
        self._formation = Formation(
            order,
            config=self._config,
            settings=self._settings,
            inputs=self._inputs,
            run=self._run,
            workers=self._workers,
            uploads=self._uploads,
        )
        self._running = self._tasks.spawn(self._formation.run(self._beat))

    async def wait(self, seconds: float) -> None:
        """Until the formation is over by itself, for `seconds` at most."""
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=seconds)

    async def end(self) -> None:
        running, self._running, self._formation = self._running, None, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    def dump_stacks(self) -> None:
        if self._formation is not None:
            self._formation.dump_stacks()
