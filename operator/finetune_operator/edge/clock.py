"""Clocks of the process: the wall clock for dates that others read, and one that never jumps for everything that waits."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

_SLEW = 0.05


class WallClock:
    """The port `Clock`, as the machine tells it."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SteadyClock:
    """The port `Clock`. It starts as the wall clock and then runs after it, faster or slower by 5 % at most.

    When somebody sets the machine's clock, no silence grows by an hour and no wait is longer than it was.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._shown, self._at = wall(), monotonic()

    def now(self) -> datetime:
        at = self._monotonic()
        passed, self._at = at - self._at, at
        most = passed * _SLEW
        self._shown += passed
        self._shown += min(max(self._wall() - self._shown, -most), most)
        return datetime.fromtimestamp(self._shown, UTC)
