"""When what agents say makes the operator look at a job: at once, or together with what else comes within a moment."""

import asyncio
from collections.abc import Callable

from finetune_contract.reports import StorageState
from finetune_operator.times import STORAGE_TOLD_SECONDS, WAKE_CALM_SECONDS


class Wakes:
    """`on_change` puts a job (by uid) into the queue."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._woken_at: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def now(self, job_uid: str) -> None:
        timer = self._timers.pop(job_uid, None)
        if timer is not None:
            timer.cancel()
        self._woken_at[job_uid] = asyncio.get_running_loop().time()
        self._on_change(job_uid)

    def soon(self, job_uid: str) -> None:
        """At most once a second; the last of a burst is never lost."""
        if job_uid in self._timers:
            return
        loop = asyncio.get_running_loop()
        due = self._woken_at.get(job_uid, float("-inf")) + WAKE_CALM_SECONDS
        if due <= loop.time():
            self.now(job_uid)
        else:
            self._timers[job_uid] = loop.call_at(due, self.now, job_uid)

    def forget_except(self, job_uids: frozenset[str]) -> None:
        for job_uid in set(self._woken_at) - job_uids:
            del self._woken_at[job_uid]

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


class StorageGate:
    """A member's states of the store: the first at once, then one in five seconds, the newest of them. `hear` takes what passes."""

    def __init__(self, hear: Callable[[StorageState], None]) -> None:
        self._hear = hear
        self._next_at = float("-inf")
        self._waiting: StorageState | None = None
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, state: StorageState) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._waiting = state
        elif loop.time() >= self._next_at:
            self._next_at = loop.time() + STORAGE_TOLD_SECONDS
            self._hear(state)
        else:
            self._waiting = state
            self._timer = loop.call_at(self._next_at, self._open)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._waiting = None

    def _open(self) -> None:
        self._timer = None
        if self._waiting is not None:
            state, self._waiting = self._waiting, None
            self.offer(state)
