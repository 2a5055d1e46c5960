"""Waits that double with every failure in a row, up to the longest."""

from dataclasses import dataclass
from random import Random

_MOST_DOUBLINGS = 30  # a float holds no 2**1024, and a count may come out of a status


@dataclass(frozen=True, kw_only=True)
class Backoff:
    first_seconds: float
    longest_seconds: float

    def after(self, num_failures: int) -> float:
        """Seconds to wait after `num_failures` in a row; 0 after none."""
        if num_failures <= 0:
            return 0.0
        return min(self.first_seconds * 2.0 ** min(num_failures - 1, _MOST_DOUBLINGS), self.longest_seconds)

    def spread_after(self, num_failures: int, random: Random) -> float:
        """Between half of that and all of it, so that those who failed together do not come back together."""
        return self.after(num_failures) * random.uniform(0.5, 1.0)
