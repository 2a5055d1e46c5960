"""A queue of keys in which one key is never worked on twice at once, and what is added meanwhile is not lost.

After client-go's workqueue: `add` now, `add_after` a delay, `add_failed` with exponential back-off.
"""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from random import Random

from finetune_operator.reconcile.ports import Key

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 60.0


class KeyedQueue:
    """For one event loop. `seconds` is a monotonic clock."""

    def __init__(self, *, seconds: Callable[[], float], random: Random) -> None:
        self._seconds, self._random = seconds, random
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._tickets = count()
        self._is_earlier = asyncio.Event()

    def add(self, key: Key) -> None:
        """Work on it soon, once."""
        self._due.pop(key, None)
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._working:
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Not later than in so many seconds; an earlier date stands."""
        due = self._seconds() + seconds
        if key in self._waiting or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._tickets), key))
        self._is_earlier.set()

    def add_failed(self, key: Key) -> None:
        """Again after a back-off that doubles with every failure in a row."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff = min(FIRST_BACKOFF_SECONDS * 2 ** min(failures, 30), MAX_BACKOFF_SECONDS)  # a float holds no 2**1024
        self.add_after(key, backoff * (0.5 + self._random.random()))

    def note_success(self, key: Key) -> None:
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """The key names nothing any more; what is waiting for later is dropped."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    async def take(self) -> Key:
        """The next key; `done` must follow."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._waiting:
            self._ready.put_nowait(key)

    async def run_timer(self) -> None:
        """Moves keys whose time has come; runs until cancelled."""
        while True:
            self._is_earlier.clear()
            self.move_due()
            wait = self._heap[0][0] - self._seconds() if self._heap else None
            try:
                async with asyncio.timeout(wait):
                    await self._is_earlier.wait()
            except TimeoutError:
                continue

    def move_due(self) -> None:
        while self._heap and self._heap[0][0] <= self._seconds():
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)

    @property
    def num_waiting(self) -> int:
        """Keys that could be worked on now."""
        return len(self._waiting)
