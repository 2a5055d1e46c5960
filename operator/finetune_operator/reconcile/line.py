"""The waiting line over all jobs, kept up to date by the pass of each job, so that no pass has to look at all of them."""

from bisect import bisect_left, insort
from datetime import datetime

from finetune_operator.decide.line import order_of, whose_turn
from finetune_operator.decide.observed import LineEntry
from finetune_operator.reconcile.ports import Key


class Line:
    """Entries of jobs that wait or are being placed."""

    def __init__(self) -> None:
        self._entries: dict[Key, LineEntry] = {}
        self._sorted: list[LineEntry] = []
        self._ordered: tuple[LineEntry, ...] | None = None
        self._turns: frozenset[Key] = frozenset()

    def update(self, key: Key, entry: LineEntry | None, now: datetime) -> frozenset[Key]:
        """Others whose answer this changes: their turn has come, or is over. All others wait as before, for the same reason."""
        before = self._entries.get(key)
        if before == entry:
            return frozenset()
        if before is not None:
            self._entries.pop(key)
            self._sorted.pop(bisect_left(self._sorted, order_of(before), key=order_of))
        if entry is not None:
            self._entries[key] = entry
            insort(self._sorted, entry, key=order_of)
        self._ordered = None
        turns = whose_turn(self.ordered(), now)
        changed = (turns ^ self._turns) & self._entries.keys()
        self._turns = turns
        return frozenset(changed - {key})

    def ordered(self) -> tuple[LineEntry, ...]:
        if self._ordered is None:
            self._ordered = tuple(self._sorted)
        return self._ordered
