"""Judges the beat: a local rank that raises no counter within the deadline of the announced phase hangs."""

from collections.abc import Callable

from finetune_contract.beat import Beat
from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.run_order import WorkerPhase
from finetune_contract.times import BEAT_DEADLINE_SECONDS, KNOWN_PACE_SECONDS, SLOWEST_BYTES_A_SECOND, WAITING_RANK_SECONDS

_PATIENCE = 3  # times the longest gap that was seen while training
_BEATS_FOR_PACE = 8


class BeatWatch:
    """One formation's counters. `clock` in seconds, monotonic."""

    def __init__(self, *, beat: Beat, num_local: int, clock: Callable[[], float]) -> None:
        self._beat, self._clock = beat, clock
        self._phase, self._num_bytes = "loading", 0
        self._longest_gap, self._num_beats, self._most_tokens = 0.0, 0, 0
        now = clock()
        self._seen = {rank: _Seen(beat, rank, now) for rank in range(num_local)}

    def enter(self, phase: WorkerPhase) -> None:
        """A new phase gives every rank its whole deadline."""
        self._phase, self._num_bytes, now = phase.phase, phase.num_bytes, self._clock()
        self._seen = {rank: _Seen(self._beat, rank, now) for rank in self._seen}

    def judge(self, done: set[int], first_rank: int) -> FailureReport | None:
        """A report for the rank that has been silent for longest, if one is past its deadline. `done` holds global ranks."""
        now = self._clock()
        silent = []
        for local_rank, seen in self._seen.items():
            num_ended, is_alive = self._beat.read(local_rank) - seen.count, self._beat.read_within(local_rank) != seen.within
            if num_ended and self._phase == "training":
                self._longest_gap = max(self._longest_gap, now - seen.counted_at)
                self._num_beats += num_ended
                self._most_tokens = max(self._most_tokens, seen.tokens)
            if num_ended or is_alive:
                self._seen[local_rank] = _Seen(self._beat, local_rank, now, counted_at=now if num_ended else seen.counted_at)
            elif first_rank + local_rank not in done:
                silent.append((not self._beat.is_waiting(local_rank), now - seen.at, first_rank + local_rank))
        is_to_blame, seconds, rank = max(silent, default=(True, 0.0, first_rank))
        deadline = self._deadline(self._beat.tokens(rank - first_rank))
        if seconds <= deadline + (0.0 if is_to_blame else WAITING_RANK_SECONDS):
            return None
        what = "hangs: no progress" if is_to_blame else "waits for its peers, and none of them reports a failure: no progress"
        message = f"rank {rank} {what} for {seconds:.0f} s in phase {self._phase} (limit {deadline:g} s); stack traces are in the log"
        return FailureReport(failure_class=FailureClass.HANG, message=message, rank=rank)

    def _deadline(self, num_tokens: int) -> float:
        """Of a rank whose micro-batch has so many tokens; one that is larger than all before it has longer in proportion."""
        if self._phase != "training":
            return BEAT_DEADLINE_SECONDS[self._phase] + self._num_bytes / SLOWEST_BYTES_A_SECOND
        fixed = KNOWN_PACE_SECONDS if self._num_beats >= _BEATS_FOR_PACE else BEAT_DEADLINE_SECONDS["training"]
        growth = max(1.0, num_tokens / self._most_tokens) if self._most_tokens else 1.0
        return max(fixed, _PATIENCE * self._longest_gap * growth)


class _Seen:
    """One rank's counters, when they were last seen to change, and when the last micro-batch was seen to end."""

    def __init__(self, beat: Beat, local_rank: int, now: float, *, counted_at: float | None = None) -> None:
        self.count, self.within, self.tokens = beat.read(local_rank), beat.read_within(local_rank), beat.tokens(local_rank)
        self.at, self.counted_at = now, now if counted_at is None else counted_at
