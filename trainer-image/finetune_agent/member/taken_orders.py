"""What a member does with each order: refuse what is outdated, do what is quick at once, start and stop one after another."""

import asyncio
import logging

from finetune_agent.member.ending import Ending
from finetune_agent.member.probes import is_reachable
from finetune_agent.member.run_report import RunReport
from finetune_agent.member.tasks import Tasks
from finetune_agent.member.training import Training
from finetune_agent.member.voice import Voice
from finetune_agent.uploading.client import Uploads
from finetune_contract.failures import ExitCode, FailureClass, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Commit, Exit, Inspect, Order, Probe, Start, Stop
from finetune_contract.reports import Warned

_log = logging.getLogger(__name__)


class TakenOrders:
    """`take` never waits; `run` carries out what has to wait for its turn."""

    def __init__(self, *, voice: Voice, run: RunReport, training: Training, uploads: Uploads, ending: Ending, tasks: Tasks) -> None:
        self._voice, self._run = voice, run
        self._training, self._uploads, self._ending, self._tasks = training, uploads, ending, tasks
        self._waiting: asyncio.Queue[Start | Stop] = asyncio.Queue()

    def take(self, order: Order) -> None:
        name = {"order": order.type, "formation": self._run.formation}
        if order.term < self._voice.term:
            _log.warning("order of term %d refused: term %d was seen", order.term, self._voice.term, extra=name)
            return
        if isinstance(order, Start | Stop | Commit) and order.run not in {None, self._run.uid}:
            _log.warning("order refused: it is about run %s", order.run, extra=name)
            return
        self._voice.term = order.term
        if isinstance(order, Start | Stop):
            self._waiting.put_nowait(order)
        elif isinstance(order, Commit):
            self._tasks.spawn(self._commit(order.deadline_seconds))
        elif isinstance(order, Probe):
            self._tasks.spawn(self._probe(order))
        elif isinstance(order, Inspect):
            self._training.dump_stacks()
        elif isinstance(order, Exit):
            self._ending.exit(order.why)

    async def run(self) -> None:
        while True:
            order = await self._waiting.get()
            if isinstance(order, Start):
                await self._start(order)
            else:
                await self._stop(order)

    async def _start(self, order: Start) -> None:
        is_late = order.formation <= self._run.formation or self._ending.is_leaving
        if is_late or not self._training.has_inputs or self._run.output is not None:
            newest = f"formation {self._run.formation}, phase {self._run.phase.value}"
            _log.warning("start refused: %s", newest, extra={"formation": order.formation, "order": "start"})
            return
        if (changed := self._training.find_changed_input()) is not None:
            message = f"{changed}; another member takes this member's place and fetches the file again"
            self._ending.end(ExitCode.FAILED, FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message))
            return
        await self._training.start(order)

    async def _stop(self, order: Stop) -> None:
        extra = {"formation": order.formation, "order": "stop"}
        if order.formation < self._run.formation:
            _log.warning("stop refused: formation %d is newer", self._run.formation, extra=extra)
            return
        if self._run.phase in {MemberPhase.PREPARING, MemberPhase.FINISHED}:
            self._run.enter(self._run.phase)
            return
        _log.info("stop: %s", order.why, extra=extra)
        self._run.formation = order.formation
        await self._training.end()
        self._uploads.rest()
        if order.save and self._training.is_saver:
            await self._commit(order.deadline_seconds)
        self._run.enter(MemberPhase.STOPPED)

    async def _commit(self, deadline_seconds: float) -> None:
        newest = self._run.snapshot
        committed = await self._uploads.commit_newest(deadline_seconds)
        if newest is not None and (committed is None or committed.order < newest.order):
            message = f"step {newest.step} could not be committed within {deadline_seconds:.0f} s; it stays in this member's memory"
            self._run.warn(Warned(reason="CommitLate", message=message))

    async def _probe(self, order: Probe) -> None:
        self._voice.answer_probe(order.peer_uid, reachable=await is_reachable(order.address))
