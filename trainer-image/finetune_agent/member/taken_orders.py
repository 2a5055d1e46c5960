"""What a member does with each order: refuse what is outdated, do what is quick at once, start and stop one after another."""

import asyncio
import logging

from finetune_agent.member.ending import Ending
from finetune_agent.member.probes import is_reachable
from finetune_agent.member.tasks import Tasks
from finetune_agent.member.training import Training
from finetune_agent.member.voice import Voice
from finetune_agent.uploading.client import Uploads
from finetune_contract.failures import ExitCode, FailureClass, FailureReport
from finetune_contract.messages import MemberPhase, Probed
from finetune_contract.orders import Commit, Exit, Inspect, Order, Probe, Start, Stop
from finetune_contract.reports import Warned

_log = logging.getLogger(__name__)


class TakenOrders:
    """`take` never waits; `run` carries out what has to wait for its turn."""

    def __init__(self, *, voice: Voice, training: Training, uploads: Uploads, ending: Ending, tasks: Tasks) -> None:
        self._voice, self._training, self._uploads, self._ending, self._tasks = voice, training, uploads, ending, tasks
        self._waiting: asyncio.Queue[Start | Stop] = asyncio.Queue()

    def take(self, order: Order) -> None:
        name = {"order": order.type, "formation": self._voice.formation}
        if order.term < self._voice.term:
            _log.warning("order of term %d refused: term %d was seen", order.term, self._voice.term, extra=name)
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
        is_late = order.formation <= self._voice.formation or self._ending.is_leaving
        if is_late or not self._training.has_inputs or self._voice.output is not None:
            newest = f"formation {self._voice.formation}, phase {self._voice.phase.value}"
            _log.warning("start refused: %s", newest, extra={"formation": order.formation, "order": "start"})
            return
        if (broken := self._training.find_broken_input()) is not None:
            message = f"{broken}; another member takes the place of this one and fetches it again"
            self._ending.end(ExitCode.FAILED, FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message))
            return
        await self._training.start(order)

    async def _stop(self, order: Stop) -> None:
        extra = {"formation": order.formation, "order": "stop"}
        if order.formation < self._voice.formation:
            _log.warning("stop refused: formation %d is newer", self._voice.formation, extra=extra)
            return
        if self._voice.phase in {MemberPhase.PREPARING, MemberPhase.FINISHED}:
            self._voice.enter(self._voice.phase)
            return
        _log.info("stop: %s", order.why, extra=extra)
        self._voice.formation = order.formation
        await self._training.end()
        self._uploads.rest()
        if order.save and self._training.is_saver:
            await self._commit(order.deadline_seconds)
        self._voice.enter(MemberPhase.STOPPED)

    async def _commit(self, deadline_seconds: float) -> None:
        newest = self._voice.snapshot
        committed = await self._uploads.commit_newest(deadline_seconds)
        if newest is not None and (committed is None or committed.order < newest.order):
            message = f"step {newest.step} could not be committed within {deadline_seconds:.0f} s; it stays in this member's memory"
            self._voice.warn(Warned(reason="CommitLate", message=message))

    async def _probe(self, order: Probe) -> None:
        self._voice.say(Probed(peer_uid=order.peer_uid, reachable=await is_reachable(order.address)))
