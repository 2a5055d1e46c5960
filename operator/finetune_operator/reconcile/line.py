"""The waiting line over all jobs, kept up to date by the pass of each job, so that no pass has to look at all of them."""

from collections.abc import Iterator

from finetune_operator.decide.line import Window, order_of
from finetune_operator.decide.observed import LineEntry
from finetune_operator.reconcile.ports import Key


class Line:
    """Entries of jobs that wait or are being placed."""

    def __init__(self) -> None:
        self._entries: dict[Key, LineEntry] = {}
        self._ordered: tuple[LineEntry, ...] | None = None
        self.window = Window()

    def update(self, key: Key, entry: LineEntry | None) -> bool:
        """True if others may have to be looked at again."""
        if self._entries.get(key) == entry:
            return False
        self.window = self.window.after(key, self._entries.get(key), entry)
        if entry is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry
        self._ordered = None
        return True

    def ordered(self) -> tuple[LineEntry, ...]:
        if self._ordered is None:
            self._ordered = tuple(sorted(self._entries.values(), key=order_of))
        return self._ordered

    def others(self, key: Key) -> Iterator[Key]:
        """Those whose turn may have come: not yet running gangs."""
        return (entry.key for entry in self.ordered() if entry.key != key and not entry.has_started)
