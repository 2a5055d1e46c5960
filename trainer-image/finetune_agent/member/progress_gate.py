"""Lets the first and the last progress through at once and the rest at most twice a second; the newest is never lost."""

import asyncio
from collections.abc import Callable

from finetune_contract.reports import Progress
from finetune_contract.times import BETWEEN_PROGRESS_SECONDS


class ProgressGate:
    """One per formation. `close` lets what waits through."""

    def __init__(self, *, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._waiting: Progress | None = None
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, progress: Progress) -> None:
        if self._timer is not None:
            self._waiting = progress
            return
        self._tell(progress)
        self._timer = asyncio.get_running_loop().call_later(BETWEEN_PROGRESS_SECONDS, self._open)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._waiting is not None:
            self._tell(self._waiting)
        self._waiting = None

    def _open(self) -> None:
        self._timer = None
        if self._waiting is not None:
            progress, self._waiting = self._waiting, None
            self.offer(progress)
