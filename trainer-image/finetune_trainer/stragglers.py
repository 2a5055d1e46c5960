"""Finds a rank whose own passes are slow step after step, so that it can be named. It stops nothing.

A rank counts the time of its own passes, without the reduction in which it waits for the others. Packs differ in length and a short one
costs something too, so a rank counts as slow only by both measures: time for a pass and time for a token. In a shard group ranks wait for
each other in every layer: such a group is as slow as its slowest rank, and only groups can be told apart.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from finetune_contract.reports import SlowRank

# Medians over ten steps: a pause of one step, or of a few, is no straggler.
WINDOW_STEPS = 10
# Below it lies what machines of one kind differ by, with other work beside them; at 1.5 a third of every step is waiting.
SLOW_FACTOR = 1.5


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one rank did in its own passes of one step."""

    microseconds: int
    num_passes: int
    num_tokens: int


class StepTimes:
    """The newest steps of all ranks."""

    def __init__(self) -> None:
        self._steps: deque[tuple[tuple[Work, ...], float]] = deque(maxlen=WINDOW_STEPS)

    def add(self, work: Sequence[Work], step_seconds: float) -> None:
        """`work` of one step by rank."""
        self._steps.append((tuple(work), step_seconds))

    def slowest(self) -> SlowRank | None:
        """The slowest rank, if it was SLOW_FACTOR times slower than the median of the others over the whole window."""
        if len(self._steps) < WINDOW_STEPS:
            return None
        by_rank = list(zip(*(work for work, _ in self._steps), strict=True))
        working = {rank: work for rank, work in enumerate(by_rank) if all(step.num_passes for step in work)}
        if len(working) < 2:
            return None
        per_pass = {rank: median(step.microseconds / step.num_passes for step in work) for rank, work in working.items()}
        per_token = {rank: median(step.microseconds / step.num_tokens for step in work) for rank, work in working.items()}
        factors = {rank: min(_times_slower(rank, per_pass), _times_slower(rank, per_token)) for rank in working}
        rank = max(factors, key=lambda rank: factors[rank])
        if factors[rank] < SLOW_FACTOR:
            return None
        seconds = per_pass[rank] / 1e6
        share = median(step.microseconds for step in working[rank]) / 1e6 / median(seconds for _, seconds in self._steps)
        return SlowRank(rank=rank, seconds=seconds, others_seconds=seconds / factors[rank], step_share=min(1.0, share))


def _times_slower(rank: int, times: dict[int, float]) -> float:
    return times[rank] / max(median(time for other, time in times.items() if other != rank), 1e-9)
