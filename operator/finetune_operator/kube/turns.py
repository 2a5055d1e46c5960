"""Who may write next: one pace for all writes, shared by lanes with weights and, inside a lane, by namespaces in turn.

So a backlog of one namespace delays the write of another by a few slots, and events never delay pods. It sends nothing itself.
"""

import asyncio
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any


class Lane(StrEnum):
    """Classes of writes, by what is lost when they come late."""

    INTENT = "intent"  # pods, ConfigMaps, the part of a status that decisions build on
    REPORT = "report"  # the rest of a status
    EVENT = "event"


_WEIGHTS = {Lane.INTENT: 16, Lane.REPORT: 4, Lane.EVENT: 1}

INTENT_FIELDS = frozenset(
    {
        "members",
        "lastSerial",
        "formation",
        "lastFormation",
        "pinned",
        "placement",
        "restarts",
        "silentMembers",
        "lostSpares",
        "output",
        "startTime",
        "completionTime",
    }
)
_NAMESPACE = re.compile(r"/namespaces/([^/]+)")


def lane_of(path: str, body: Mapping[str, Any] | None) -> Lane:
    """The lane of one write. A status patch that holds any intent is intent."""
    if path.startswith("/apis/events.k8s.io/"):
        return Lane.EVENT
    if path.endswith("/status") and body is not None and INTENT_FIELDS.isdisjoint(body.get("status") or {}):
        return Lane.REPORT
    return Lane.INTENT


def payer_of(path: str) -> str:
    """The namespace whose share a request uses; empty for what belongs to none."""
    found = _NAMESPACE.search(path)
    return found[1] if found else ""


class Pace:
    """A token bucket: `rate` a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def try_take(self) -> bool:
        """Take one token if there is one."""
        if self.seconds_until_next() > 0:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        return True

    def seconds_until_next(self) -> float:
        """0 when a token can be taken now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens >= 1 - 1e-6 else (1 - self._tokens) / self._rate


class Turns:
    """`take` returns when it is the caller's turn. Work conserving: nobody waits while there are tokens."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: dict[Lane, OrderedDict[str, deque[asyncio.Future[None]]]] = {lane: OrderedDict() for lane in Lane}
        self._credits = dict.fromkeys(Lane, 0)
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, lane: Lane, payer: str) -> None:
        """A caller that is cancelled leaves the line at once and its token stays."""
        if not any(self._waiting.values()) and self._pace.try_take():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[lane].setdefault(payer, deque()).append(future)
        self._serve_later()
        try:
            await future
        except asyncio.CancelledError:
            self._leave(lane, payer, future)
            raise

    def num_waiting(self, lane: Lane) -> int:
        return sum(len(line) for line in tuple(self._waiting[lane].values()))

    def _leave(self, lane: Lane, payer: str, future: asyncio.Future[None]) -> None:
        line = self._waiting[lane].get(payer)
        if line is not None and future in line:
            line.remove(future)
            if not line:
                del self._waiting[lane][payer]

    def _serve_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pace.seconds_until_next(), self._serve)

    def _serve(self) -> None:
        self._timer = None
        while (lane := self._next_lane()) is not None and self._pace.try_take():
            self._charge(lane)
            future = self._pop(lane)
            if not future.done():
                future.set_result(None)
        if any(self._waiting.values()):
            self._serve_later()

    def _next_lane(self) -> Lane | None:
        """Smooth weighted round robin over the lanes in which somebody waits."""
        busy = [lane for lane in Lane if self._waiting[lane]]
        return max(busy, key=lambda lane: self._credits[lane] + _WEIGHTS[lane], default=None)

    def _charge(self, served: Lane) -> None:
        busy = [lane for lane in Lane if self._waiting[lane]]
        for lane in Lane:
            self._credits[lane] = self._credits[lane] + _WEIGHTS[lane] if lane in busy else 0
        self._credits[served] -= sum(_WEIGHTS[lane] for lane in busy)

    def _pop(self, lane: Lane) -> asyncio.Future[None]:
        """Of the namespace whose turn it is; it goes to the end if more of it wait."""
        payer, line = self._waiting[lane].popitem(last=False)
        future = line.popleft()
        if line:
            self._waiting[lane][payer] = line
        return future
