"""How a member ends: told to exit, told by SIGTERM, or left alone with nothing to do. Its exit code and last words tell which.

SIGTERM: leaving is told, the newest snapshot becomes a commit, and training goes on until stop, exit or just before the deadline.
"""

import asyncio
import logging
from collections.abc import Callable

from finetune_agent.member.last_words import write_last_words
from finetune_agent.member.run_report import RunReport
from finetune_agent.member.tasks import Tasks
from finetune_agent.member.training import Training
from finetune_agent.member.voice import Voice
from finetune_agent.settings import Settings
from finetune_agent.uploading.client import Uploads
from finetune_contract.failures import ExitCode, FailureClass, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.reports import Warned
from finetune_contract.times import ALONE_SECONDS, LAST_SAVE_SECONDS, PUBLISH_SECONDS

_log = logging.getLogger(__name__)


class Ending:
    """Made inside the loop. `code` is there when the member may end; the first one stays."""

    def __init__(self, *, settings: Settings, voice: Voice, run: RunReport, training: Training, uploads: Uploads, tasks: Tasks) -> None:
        self._settings, self._voice, self._run = settings, voice, run
        self._training, self._uploads, self._tasks = training, uploads, tasks
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.is_leaving = False

    def end(self, code: int, last_words: FailureReport | None = None) -> None:
        if last_words is not None:
            write_last_words(self._settings.termination_log, last_words)
        if not self.code.done():
            self.code.set_result(code)

    def exit(self, why: str) -> None:
        """The coordinator has no work for this member any more."""
        _log.info("exit: %s", why, extra={"order": "exit"})
        if self._run.phase is MemberPhase.FINISHED:
            self.end(ExitCode.FINISHED)
        elif self._run.failure is not None:
            self.end(ExitCode.LEAVING, self._run.failure)
        else:
            self.end(ExitCode.LEAVING, FailureReport(failure_class=FailureClass.DISRUPTED, message=f"told to exit: {why}"))

    def leave(self) -> None:
        """SIGTERM: the member has the grace period left. A second one changes nothing."""
        if not self.is_leaving:
            self.is_leaving = True
            self._tasks.spawn(self._leave())

    async def _leave(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.grace_seconds
        self._voice.leave(self._settings.grace_seconds, lambda: max(deadline - clock(), 0.0))
        _log.info("told to end, %.0f s left", self._settings.grace_seconds)
        early = self._tasks.spawn(self._commit_quietly(self._settings.grace_seconds - LAST_SAVE_SECONDS))
        await self._training.wait(self._settings.grace_seconds - LAST_SAVE_SECONDS)
        await self._training.end()
        await asyncio.wait({early}, timeout=max(deadline - clock() - PUBLISH_SECONDS, 0))
        if self._run.is_behind:
            await self._uploads.commit_newest(max(deadline - clock() - PUBLISH_SECONDS, 0))
        if self._run.phase is MemberPhase.FINISHED:
            self.end(ExitCode.FINISHED)
            return
        if self._run.is_behind:
            self._run.warn(Warned(reason="CommitLate", message=self._run.describe_lag()))
        self.end(ExitCode.LEAVING, FailureReport(failure_class=FailureClass.DISRUPTED, message="the member was told to end (SIGTERM)"))

    async def _commit_quietly(self, seconds: float) -> None:
        await self._uploads.commit_newest(seconds)

    async def watch_solitude(self, lost_at: Callable[[], float | None]) -> None:
        """A member without work and without a coordinator ends by itself: its last words and exit code tell the rest.

        `lost_at`: loop time since when the coordinator has been away, None while it is there.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(1.0)
            lost, phase = lost_at(), self._run.phase
            is_idle = phase is MemberPhase.FINISHED or (phase is MemberPhase.FAILED and not self._training.has_inputs)
            if not is_idle or lost is None or clock() - max(lost, self._run.changed_at) < ALONE_SECONDS:
                continue
            _log.info("no coordinator for %.0f s and nothing left to do", ALONE_SECONDS)
            self.end(ExitCode.FINISHED if phase is MemberPhase.FINISHED else ExitCode.FAILED, self._run.failure)
            return
