"""When steps were finished, as the workers themselves wrote it down: the figures of the fault suite rest on nothing the operator says."""

import itertools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A fault, done at a moment of the machine's monotonic clock while `formation` was the newest. Warned of, training goes on."""

    at: float
    formation: int
    is_warned: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    at: float
    formation: int
    number: int


@dataclass(frozen=True)
class StepLog:
    """Read anew each time; a line that is being written is left out."""

    file: Path

    def read(self) -> list[Step]:
        text = self.file.read_text() if self.file.exists() else ""
        lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        steps = [Step(at=float(at), formation=int(formation), number=int(number)) for at, formation, number in lines]
        # A step is told once more when its evaluation is done.
        return list({(step.formation, step.number): step for step in reversed(steps)}.values())[::-1]

    def seconds_after(self, strike: Strike) -> float | None:
        """To the first step of a later formation; None if there is none."""
        later = [step.at for step in self.read() if step.formation > strike.formation and step.at > strike.at]
        return min(later) - strike.at if later else None

    def lost_after(self, strike: Strike) -> int:
        """Finished steps that the first later formation computed again."""
        before = [step.number for step in self.read() if step.formation <= strike.formation]
        later = [step.number for step in self.read() if step.formation > strike.formation]
        return max(before[-1] - later[0] + 1, 0) if before and later else 0

    def longest_pause(self, *, since: float) -> float:
        moments = [step.at for step in self.read()]
        return max((after - before for before, after in itertools.pairwise(moments) if after > since), default=0.0)

    def most_lost(self) -> int:
        """The most finished steps that one formation computed again."""
        furthest, formation, most = 0, 0, 0
        for step in self.read():
            if step.formation > formation:
                formation, most = step.formation, max(most, furthest - step.number + 1)
            furthest = max(furthest, step.number)
        return most
