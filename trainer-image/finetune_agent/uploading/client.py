"""The agent's side of the uploader: ask, wait, ask again while the store is away. An uploader that dies is started again."""

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable

from finetune_agent.uploading.messages import Answer, CommitNewest, Follow, LoadNewest, Publish, Question, Rest, Unasked, parse_report
from finetune_contract.failures import TrainingError
from finetune_contract.reports import Output
from finetune_contract.state import InputDigests, StateId
from finetune_contract.times import ASK_UPLOADER_AGAIN_SECONDS
from finetune_contract.values import Value, render_message

_MAX_LINE_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class Uploads:
    """`hear` takes what the uploader says unasked."""

    def __init__(self, *, slots_fd: int, hear: Callable[[Unasked], None]) -> None:
        self._slots_fd, self._hear = slots_fd, hear
        self._child: asyncio.subprocess.Process | None = None
        self._questions: dict[int, tuple[Question, asyncio.Future[Answer]]] = {}
        self._numbers = itertools.count(1)
        self._following: Follow | None = None

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    async def run(self) -> None:
        """Keep an uploader alive, for ever; what it was asked and has not answered is asked again."""
        while True:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "finetune_agent.uploading", str(self._slots_fd), str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(self._slots_fd,),
                limit=_MAX_LINE_BYTES,
                start_new_session=True,
            )
            if self._following is not None:
                self._send(self._following)
            for question, _ in tuple(self._questions.values()):
                self._send(question)
            await self._listen(self._child)
            _log.error("the uploader ended with status %d; it is started again", await self._child.wait())
            await asyncio.sleep(ASK_UPLOADER_AGAIN_SECONDS)

    async def close(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            await self._child.wait()

    def follow(self, formation: int, resumed_from: StateId | None) -> None:
        self._following = Follow(formation=formation, resumed_from=resumed_from)
        self._send(self._following)

    def rest(self) -> None:
        self._following = None
        self._send(Rest())

    async def commit_newest(self, deadline_seconds: float) -> StateId | None:
        """The newest commit afterwards; None if there was nothing to commit or the store stayed away until the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(deadline_seconds, 0)):
                return (await self._ask(CommitNewest(id=next(self._numbers)))).state
        return None

    async def load_newest(self, *, newer_than: StateId | None, inputs: InputDigests | None) -> StateId | None:
        """Waits for as long as the store is away: a start from zero must never be an accident."""
        return (await self._ask(LoadNewest(id=next(self._numbers), newer_than=newer_than, inputs=inputs))).state

    async def publish(self, request: Callable[[int], Publish]) -> Output:
        """Waits for as long as the store is away. `request` gets the number of the question."""
        answer = await self._ask(request(next(self._numbers)))
        assert answer.output is not None
        return answer.output

    async def _ask(self, question: Question) -> Answer:
        """Raises TrainingError for an answer that no waiting would change."""
        while True:
            answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._questions[question.id] = (question, answered)
            try:
                self._send(question)
                answer = await answered
            finally:
                del self._questions[question.id]
            if answer.failure is not None:
                raise TrainingError(answer.failure.failure_class, answer.failure.message)
            if answer.unavailable is None:
                return answer
            await asyncio.sleep(ASK_UPLOADER_AGAIN_SECONDS)

    def _send(self, message: Value) -> None:
        if self._child is not None and self._child.stdin is not None and not self._child.stdin.is_closing():
            self._child.stdin.write(render_message(message).encode() + b"\n")

    async def _listen(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            report = parse_report(line)
            if not isinstance(report, Answer):
                self._hear(report)
            elif report.id in self._questions:
                answered = self._questions[report.id][1]
                if not answered.done():
                    answered.set_result(report)
