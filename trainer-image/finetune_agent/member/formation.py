"""One formation as one member lives it, top to bottom: fetch a newer commit, fork, follow the workers, publish or report.

Whoever ends it early cancels `run`; nothing of it is alive when `run` is over.

    STARTING -> TRAINING <-> EVALUATING -> EXPORTING -> FINISHED
        any failure: Failed, workers killed, FAILED
"""

from finetune_agent.launching.client import Workers
from finetune_agent.member.between_steps import stop_between_steps
from finetune_agent.member.following import Following
from finetune_agent.member.local_ranks import LocalRanks
from finetune_agent.member.run_report import RunReport
from finetune_agent.member.starting import fetch_newer_commit, make_run_order, output_folder, refuse_other_inputs
from finetune_agent.preparing.messages import ReadyInputs
from finetune_agent.settings import Settings
from finetune_agent.uploading.client import Uploads
from finetune_agent.uploading.messages import Publish
from finetune_contract.beat import Beat
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, FailureReport, TrainingError
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Start
from finetune_contract.run_order import WorkerExported


class Formation:
    """`run` once. All parts are the agent's; a formation owns only its launch."""

    def __init__(
        self,
        start: Start,
        *,
        config: JobConfig,
        settings: Settings,
        inputs: ReadyInputs,
        run: RunReport,
        workers: Workers,
        uploads: Uploads,
    ) -> None:
        self.start = start
        self._config, self._settings, self._inputs = config, settings, inputs
        self._run, self._workers, self._uploads = run, workers, uploads
        num_local = config.gang.processes_per_node
        self._ranks = LocalRanks(num_local=num_local, first=start.node_rank * num_local)
        self.is_handed_over = False  # another formation takes over while this one trains

    async def run(self, beat: Beat) -> None:
        start, digests = self.start, self._inputs.digests
        try:
            self._run.enter(MemberPhase.STARTING)
            refuse_other_inputs(start.inputs, digests, self._config)
            resumed_from = await fetch_newer_commit(start, self._run.snapshot, uploads=self._uploads, inputs=digests, warn=self._run.tell)
            order = make_run_order(start, config=self._config, settings=self._settings, inputs=self._inputs)
            launch = await self._workers.launch(order)
            if start.node_rank == 0:
                self._uploads.follow(start.formation, resumed_from)
            else:
                self._uploads.rest()
            following = Following(launch, ranks=self._ranks, beat=beat, run=self._run)
            report = await following.run()
            if report is None:
                await self._finish(following.exported)
            else:
                await self._fail(report)
        except TrainingError as error:
            await self._fail(FailureReport(failure_class=error.failure_class, message=error.message))
        finally:
            if self.is_handed_over and (writer := self._ranks.pids.get(0)) is not None:
                await stop_between_steps(writer, lambda: not beat.owes_snapshot(0))
            await self._end_workers()

    def dump_stacks(self) -> None:
        self._ranks.dump_stacks()

    async def _finish(self, exported: WorkerExported | None) -> None:
        await self._end_workers()
        self._uploads.rest()
        if self.start.node_rank == 0:
            if exported is None:
                raise TrainingError(FailureClass.INTERNAL, "all ranks are done, but rank 0 did not report where the adapter is")
            self._run.enter(MemberPhase.EXPORTING)
            self._run.publish(await self._uploads.publish(lambda number: self._publish_request(number, exported)))
        self._run.enter(MemberPhase.FINISHED)

    def _publish_request(self, number: int, exported: WorkerExported) -> Publish:
        return Publish(
            id=number,
            folder=str(output_folder(self._settings, self.start.formation)),
            formation=self.start.formation,
            step=exported.state.step,
            inputs=self._inputs.digests,
            first_loss=exported.first_loss,
            last_loss=exported.last_loss,
            eval_loss=exported.eval_loss,
            sample_digest=exported.sample_digest,
        )

    async def _fail(self, report: FailureReport) -> None:
        self._run.fail(report)
        await self._end_workers()
        self._run.enter(MemberPhase.FAILED)

    async def _end_workers(self) -> None:
        await self._workers.end(spared_trees=tuple(pid for pid in (self._uploads.pid, self._run.tracking.pid) if pid is not None))
