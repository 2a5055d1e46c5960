"""A queue of keys in which one key is never worked on twice at once, and what is added meanwhile is not lost.

After client-go's workqueue, and fair: namespaces take turns, and none holds more workers than it leaves free to others. A key whose
passes fail, or never come to rest, backs off by itself: then no event of the cluster brings it back before its time.
"""

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count
from random import Random

from finetune_contract.backoff import Backoff
from finetune_operator.reconcile.ports import Key
from finetune_operator.times import PASS_FIRST_BACKOFF_SECONDS, PASS_MAX_BACKOFF_SECONDS, PASS_MAX_BROKEN_SECONDS, PASS_MAX_RESTLESS_SECONDS

_BACKOFF = Backoff(first_seconds=PASS_FIRST_BACKOFF_SECONDS, longest_seconds=PASS_MAX_BACKOFF_SECONDS)
_BROKEN_BACKOFF = Backoff(first_seconds=PASS_FIRST_BACKOFF_SECONDS, longest_seconds=PASS_MAX_BROKEN_SECONDS)
_RESTLESS_BACKOFF = Backoff(first_seconds=PASS_FIRST_BACKOFF_SECONDS, longest_seconds=PASS_MAX_RESTLESS_SECONDS)
BROKEN_AFTER = 3  # failures in a row that are no fault of the cluster
RESTLESS_AFTER = 6  # passes in a row that asked for another one at once


class KeyedQueue:
    """For one event loop. `seconds` is a monotonic clock; `num_workers` call `take`."""

    def __init__(self, *, seconds: Callable[[], float], random: Random, num_workers: int) -> None:
        self._seconds, self._random, self._num_workers = seconds, random, num_workers
        self._ready: OrderedDict[str, deque[Key]] = OrderedDict()  # by namespace, the next one first
        self._idle: deque[asyncio.Future[Key]] = deque()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()
        self._held_by: dict[str, int] = {}  # workers by namespace
        self._failures: dict[Key, int] = {}
        self._broken: dict[Key, int] = {}
        self._restless: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._tickets = count()
        self._is_earlier = asyncio.Event()

    def add(self, key: Key) -> None:
        """Work on it soon, once; a key that backs off by itself, at the end of its back-off."""
        if self.is_held(key):
            return
        self._due.pop(key, None)
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._working:
            self._make_ready(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Not later than in so many seconds; an earlier date stands."""
        due = self._seconds() + seconds
        if key in self._waiting or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._tickets), key))
        self._is_earlier.set()

    def add_failed(self, key: Key) -> None:
        """Again after a back-off that doubles with every failure in a row; the fault is the cluster's, so news bring it back at once."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, _BACKOFF.spread_after(failures + 1, self._random))

    def add_broken(self, key: Key) -> int:
        """The same for a failure of the pass itself: from the third in a row on nothing brings it back earlier. How many there were."""
        broken = self._broken.get(key, 0) + 1
        self._broken[key] = broken
        seconds = _BROKEN_BACKOFF.spread_after(broken + 7 if broken >= BROKEN_AFTER else broken, self._random)
        if broken >= BROKEN_AFTER:
            self._hold(key, seconds)
        else:
            self.add_after(key, seconds)
        return broken

    def add_again(self, key: Key) -> None:
        """At once; but a key that never comes to rest is held back, longer and longer."""
        restless = self._restless.get(key, 0) + 1
        self._restless[key] = restless
        self._failures.pop(key, None)
        self._broken.pop(key, None)
        if restless < RESTLESS_AFTER:
            self.add_after(key, 0.0)
        else:
            self._hold(key, _RESTLESS_BACKOFF.spread_after(restless - RESTLESS_AFTER + 1, self._random))

    def note_success(self, key: Key) -> None:
        """A pass came to rest: no back-off is left."""
        for memory in (self._failures, self._broken, self._restless, self._not_before):
            memory.pop(key, None)

    def is_held(self, key: Key) -> bool:
        """It backs off by itself."""
        return self._not_before.get(key, float("-inf")) > self._seconds()

    def forget(self, key: Key) -> None:
        """The key names nothing any more; what is waiting for later is dropped."""
        self.note_success(key)
        self._due.pop(key, None)

    async def take(self) -> Key:
        """The next key; `done` must follow."""
        key = self._next()
        if key is not None:
            return key
        idle: asyncio.Future[Key] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        try:
            return await idle
        except asyncio.CancelledError:
            if idle.done() and not idle.cancelled():
                self.done(idle.result())
                self.add(idle.result())
            raise

    def done(self, key: Key) -> None:
        self._working.discard(key)
        self._held_by[key[0]] = self._held_by.get(key[0], 1) - 1
        if not self._held_by[key[0]]:
            del self._held_by[key[0]]
        if key in self._waiting and self.is_held(key):  # news came during the pass that sent it into its back-off
            self._waiting.discard(key)
            self._push_due(key, self._not_before[key])
        elif key in self._waiting:
            self._make_ready(key)
        self._offer()

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

    def _hold(self, key: Key, seconds: float) -> None:
        self._not_before[key] = due = self._seconds() + seconds
        self._waiting.discard(key)
        self._push_due(key, due)

    def _push_due(self, key: Key, due: float) -> None:
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._tickets), key))
        self._is_earlier.set()

    def _make_ready(self, key: Key) -> None:
        self._ready.setdefault(key[0], deque()).append(key)
        self._offer()

    def _offer(self) -> None:
        """Give what is ready to workers that wait."""
        while self._idle:
            if self._idle[0].done():
                self._idle.popleft()
                continue
            key = self._next()
            if key is None:
                return
            self._idle.popleft().set_result(key)

    def _next(self) -> Key | None:
        """Of the first namespace that holds fewer workers than are free; so a namespace that comes late always finds one."""
        num_free = self._num_workers - len(self._working)
        namespace = next((name for name in self._ready if self._held_by.get(name, 0) < num_free), None)
        if namespace is None:
            return None
        keys = self._ready.pop(namespace)
        key = keys.popleft()
        if keys:
            self._ready[namespace] = keys
        self._waiting.discard(key)
        self._working.add(key)
        self._held_by[namespace] = self._held_by.get(namespace, 0) + 1
        return key
