"""The agent's side of the tracker: every step is offered, none is waited for. What the tracker cannot take is dropped, oldest first."""

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from finetune_agent.tracking.messages import Ended, Outcome, Tracked, parse_tracker_report
from finetune_contract.reports import Progress, Warned
from finetune_contract.times import TRACKING_LONGEST_FINISH_SECONDS, TRACKING_RESTART_SECONDS
from finetune_contract.values import render_message

_MOST_WAITING = 10_000
_MAX_LINE_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class Tracking:
    """Idle unless the job reports to somebody. The child is started by the first step: only the member with rank 0 has one."""

    def __init__(self, *, is_wanted: bool, tmp_folder: Path, hear: Callable[[Warned], None]) -> None:
        self._is_wanted, self._tmp_folder, self._hear = is_wanted, tmp_folder, hear
        self._waiting: deque[Tracked] = deque(maxlen=_MOST_WAITING)
        self._news = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._feeding: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def offer(self, progress: Progress) -> None:
        if not self._is_wanted:
            return
        self._waiting.append(progress)
        self._news.set()
        if self._feeding is None or self._feeding.done():
            self._feeding = asyncio.create_task(self._feed())

    def pause(self) -> None:
        """Another member has rank 0 from now on, and writes to the same run."""
        if self._feeding is not None:
            self._waiting.append(Ended(outcome="preempted"))
            self._news.set()

    async def close(self, outcome: Outcome, *, seconds: float) -> None:
        """The tracker gets so long to hand over what it has; then it ends, whatever it has."""
        feeding, self._feeding = self._feeding, None
        if feeding is None:
            return
        self._waiting.append(Ended(outcome=outcome))
        self._news.set()
        await asyncio.wait({feeding}, timeout=seconds)
        feeding.cancel()
        await asyncio.wait({feeding})
        self._waiting.clear()

    async def _feed(self) -> None:
        """Until `Ended` was taken and nothing waits. A tracker that dies is started again, and goes on where it was."""
        while True:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "finetune_agent.tracking", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=dict(os.environ) | {"TMPDIR": str(self._tmp_folder)},
                limit=_MAX_LINE_BYTES,
                start_new_session=True,
            )
            listening = asyncio.create_task(self._listen(self._child))
            try:
                if await self._write_all(self._child):
                    await _wait(self._child)
                    if not self._waiting:
                        return
                    continue
                _log.error("the tracker ended with status %d; it is started again", await self._child.wait())
            finally:
                await _end(self._child)
                self._child = None
                listening.cancel()
                await asyncio.wait({listening})
            await asyncio.sleep(TRACKING_RESTART_SECONDS)

    async def _write_all(self, child: asyncio.subprocess.Process) -> bool:
        """True once the tracker has taken the end, False when it is gone."""
        assert child.stdin is not None
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            while self._waiting:
                message = self._waiting.popleft()
                try:
                    child.stdin.write(render_message(message).encode() + b"\n")
                    await child.stdin.drain()
                except ConnectionError:
                    self._waiting.appendleft(message)
                    return False
                if isinstance(message, Ended):
                    child.stdin.close()
                    return True

    async def _listen(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            self._hear(parse_tracker_report(line))


async def _wait(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TRACKING_LONGEST_FINISH_SECONDS):
            await child.wait()


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
