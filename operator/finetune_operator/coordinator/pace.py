"""How much one member may say, and what it may cause: budgets that fill up with time. Pure: moments are arguments, in seconds."""

from finetune_operator.times import FLOOD_PATIENCE_SECONDS

_MESSAGES_A_SECOND, _MESSAGES_AT_ONCE = 20.0, 100.0
_BYTES_A_SECOND, _BYTES_AT_ONCE = 64 * 1024.0, 256 * 1024.0
_WAKES_A_SECOND, _WAKES_AT_ONCE = 1.0, 20.0
_LINES_A_SECOND, _LINES_AT_ONCE = 0.1, 5.0
_TAKEOVERS_A_SECOND, _TAKEOVERS_AT_ONCE = 1 / 60, 5.0


class Bucket:
    """Holds `at_once` when it is full, and gains `a_second`. What it lends beyond has to be waited for."""

    def __init__(self, a_second: float, at_once: float) -> None:
        self._a_second, self._at_once = a_second, at_once
        self._level = at_once
        self._at: float | None = None

    def spend(self, amount: float, now: float) -> float:
        """Seconds until what was lent has been gained back; 0 while nothing was."""
        self._fill(now)
        self._level -= amount
        return max(0.0, -self._level / self._a_second)

    def take(self, now: float) -> bool:
        """One, if there is one."""
        self._fill(now)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._level = min(self._at_once, self._level + (now - self._at) * self._a_second)
        self._at = now


class LogBudget:
    """Lets a few lines through, then one in ten seconds that says how many were left out."""

    def __init__(self) -> None:
        self._lines = Bucket(_LINES_A_SECOND, _LINES_AT_ONCE)
        self._num_left_out = 0

    def admit(self, now: float) -> int | None:
        """None: write no line. Else one may be written, and so many were left out since the last."""
        if not self._lines.take(now):
            self._num_left_out += 1
            return None
        left_out, self._num_left_out = self._num_left_out, 0
        return left_out


class MemberPace:
    """The budgets of one member; they outlive its connections, so that connecting again earns nothing."""

    def __init__(self) -> None:
        self._messages = Bucket(_MESSAGES_A_SECOND, _MESSAGES_AT_ONCE)
        self._bytes = Bucket(_BYTES_A_SECOND, _BYTES_AT_ONCE)
        self._slowed_since: float | None = None
        self.wakes = Bucket(_WAKES_A_SECOND, _WAKES_AT_ONCE)
        self.takeovers = Bucket(_TAKEOVERS_A_SECOND, _TAKEOVERS_AT_ONCE)
        self.was_at_home = False  # it has spoken from an address of its pod

    def receive(self, num_bytes: int, now: float) -> float:
        """Seconds for which nothing more may be read from this member."""
        wait = max(self._messages.spend(1, now), self._bytes.spend(num_bytes, now))
        if wait == 0:
            self._slowed_since = None
        elif self._slowed_since is None:
            self._slowed_since = now
        return wait

    def is_out_of_patience(self, now: float) -> bool:
        return self._slowed_since is not None and now - self._slowed_since > FLOOD_PATIENCE_SECONDS
