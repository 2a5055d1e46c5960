"""The waiting line over all jobs, kept up to date by the pass of each job, so that no pass has to look at all of them."""

from datetime import datetime, timedelta

from finetune_operator.decide.facts.line import Window, order_of, shut_namespaces, whose_turn_may_come
from finetune_operator.decide.facts.observed import LineEntry
from finetune_operator.reconcile.ports import Key
from finetune_operator.times import PRECEDENCE_AGAIN_SECONDS


class Line:
    """Entries of jobs that wait or are being placed."""

    def __init__(self) -> None:
        self._entries: dict[Key, LineEntry] = {}
        self._ordered: tuple[LineEntry, ...] | None = None
        self._losses: dict[str, datetime] = {}  # by namespace: the first within half an hour
        self.window = Window()

    def update(self, key: Key, entry: LineEntry | None, now: datetime) -> frozenset[Key]:
        """The other jobs that have to be looked at again. One that stands too far behind to matter wakes nobody."""
        before = self._entries.get(key)
        if before == entry:
            return frozenset()
        could, shut = whose_turn_may_come(self.ordered(), self.window, now), shut_namespaces(self.ordered(), now)
        self.window = self.window.after(key, before, entry)
        if entry is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry
        self._ordered = None
        can = whose_turn_may_come(self.ordered(), self.window, now)
        matters = key in could or key in can or any(known is not None and known.has_started for known in (before, entry))
        matters = matters or shut != shut_namespaces(self.ordered(), now)  # others wait for nobody of a namespace that is shut
        return (can if matters else can - could) - {key}

    def ordered(self) -> tuple[LineEntry, ...]:
        if self._ordered is None:
            self._ordered = tuple(sorted(self._entries.values(), key=order_of))
        return self._ordered

    def note_loss(self, namespace: str, since: datetime | None, now: datetime) -> None:
        """What the status of a job says of its losses; it counts for the namespace also when the job is gone."""
        known = self.first_loss(namespace, now)
        if since is not None and _is_counted(since, now) and (known is None or since < known):
            self._losses[namespace] = since

    def first_loss(self, namespace: str, now: datetime) -> datetime | None:
        """From here on the running gangs of the namespace went before others."""
        since = self._losses.get(namespace)
        if since is not None and not _is_counted(since, now):
            del self._losses[namespace]
            return None
        return since


def _is_counted(since: datetime, now: datetime) -> bool:
    return timedelta(0) <= now - since < timedelta(seconds=PRECEDENCE_AGAIN_SECONDS)
