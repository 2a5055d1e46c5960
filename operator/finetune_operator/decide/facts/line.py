"""The line of gangs that wait or are being placed, ordered by (priority, age); who has to let whom go first.

Gangs are let in one by one, and twice as many in every round in which all find room; a few of other namespaces go beside them. The first
that finds none sets the number back to one: it is waited for during its turn, and passed over after that. From then on several in a row
must find room before the number grows again, because in a full cluster the gang after the one that waited often takes the place of another
that ended at the same time. What a namespace may not do, by its quota or a policy, is no lack of room, and delays no other namespace.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.facts.gang_spec import GangSpec, gang_spec
from finetune_operator.decide.facts.observed import LineEntry, Observed, PodPhase, PodView
from finetune_operator.times import BACKOFF_JITTER, LONGEST_BLOCK_SECONDS, MAX_BACKOFF_SECONDS, SHORTEST_TURN_SECONDS, TURN_SECONDS

MAX_PLACED_AT_ONCE = 256
CLEAN_BEFORE_GROWTH = 4
MAX_BESIDE = 4
LUXURY_ATTEMPTS = 3  # extras leave room to a more urgent gang that backs off, until it has failed so often that it may never fit
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Window:
    """How many gangs may be in placement at once. `short` are those of them that met a full cluster: their success proves no room.

    `num_clean` gangs in a row found room at once since the last that did not, at most as many as it takes for the window to grow.
    """

    size: int = 1
    short: frozenset[Key] = frozenset()
    num_clean: int = CLEAN_BEFORE_GROWTH

    @property
    def num_beside(self) -> int:
        """Gangs beyond `size`, each the only one of its namespace in placement; none in a cluster that was full a moment ago."""
        return MAX_BESIDE if self.num_clean == CLEAN_BEFORE_GROWTH else 0

    def after(self, key: Key, before: LineEntry | None, entry: LineEntry | None) -> "Window":
        """The window after the entry of one job changed."""
        is_placing, was_placing = entry is not None and entry.is_placing, before is not None and before.is_placing
        if entry is not None and is_placing and entry.has_unschedulable:
            return Window(size=1, short=self.short | {key}, num_clean=0)
        if is_placing or not was_placing:
            return self
        if entry is not None and entry.is_refused and key not in self.short:  # that says nothing of the nodes
            return self
        if entry is not None and not entry.has_started:  # it gave back
            return Window(size=1, short=self.short - {key}, num_clean=0)
        if key in self.short:
            return Window(size=self.size, short=self.short - {key}, num_clean=self.num_clean)
        may_grow = self.num_clean == CLEAN_BEFORE_GROWTH
        size = min(self.size + 1, MAX_PLACED_AT_ONCE) if may_grow else self.size
        return Window(size=size, short=self.short, num_clean=min(self.num_clean + 1, CLEAN_BEFORE_GROWTH))


def line_entry(job: FineTuneJob, pods: tuple[PodView, ...], now: datetime) -> LineEntry | None:
    """The place of one job in the line; None if it neither waits nor goes before those that wait."""
    spec, status = gang_spec(job.spec), job.status
    if job.metadata.deletion_timestamp is not None or status.is_ended or spec.is_suspended:
        return None
    listed = {entry.uid for entry in status.places}
    has_unschedulable = any(pod.uid in listed and is_unschedulable(pod) for pod in pods)
    is_placing = status.placement.placing_since is not None
    has_started = bool(status.members) and not is_placing
    if has_started and not (has_unschedulable and goes_before_others(spec, status, pods, now)):
        return None
    return LineEntry(
        key=job.key,
        uid=job.metadata.uid,
        priority=spec.priority,
        created_at=job.metadata.creation_timestamp or now,
        is_placing=is_placing,
        has_unschedulable=has_unschedulable,
        has_started=has_started,
        backoff_until=None if status.members else status.placement.backoff_until,
        gave_back_at=None if status.members else status.placement.gave_back_at,
        attempts=status.placement.attempts,
        is_passed=had_its_turn(status, pods, now),
        is_refused=status.placement.is_refused and not status.members,
    )


def goes_before_others(spec: GangSpec, status: JobStatus, pods: tuple[PodView, ...], now: datetime) -> bool:
    """A running gang that replaces what its formation had: counted from the first loss, whatever becomes of the replacements."""
    since = status.replacing_since
    if since is None or num_to_replace(spec.min_nodes, status, pods) == 0:
        return False
    longest = timedelta(seconds=min(spec.placement_timeout_seconds, LONGEST_BLOCK_SECONDS))
    return timedelta(0) <= now - since < longest


def num_to_replace(num_nodes_min: int, status: JobStatus, pods: tuple[PodView, ...]) -> int:
    """Places without a node of those that the newest formation had, as far as nodes.min needs them: to grow is no reason to go first."""
    if status.formation is None:
        return 0
    listed = {entry.uid for entry in status.places}
    num_placed = sum(pod.uid in listed and not pod.is_over and (pod.node is not None or pod.phase is not PodPhase.PENDING) for pod in pods)
    return max(min(num_nodes_min, len(status.formation.serials)) - num_placed, 0)


def had_its_turn(status: JobStatus, pods: tuple[PodView, ...], now: datetime) -> bool:
    """No pod of the gang found a node for so long; a gang that failed before has a shorter turn.

    Only the pods with which the placement began lengthen it: one that replaces another could do so again and again.
    """
    placement = status.placement
    if placement.placing_since is None:
        return False
    listed = {entry.uid for entry in status.places}
    first_until = placement.placing_since + timedelta(seconds=TURN_SECONDS)
    gains = [pod.placed_at for pod in pods if pod.uid in listed and pod.placed_at is not None and pod.created_at < first_until]
    seconds = max(TURN_SECONDS / 2 ** min(placement.attempts, 10), SHORTEST_TURN_SECONDS)
    return now - max([placement.placing_since, *gains]) >= timedelta(seconds=seconds)


def order_of(entry: LineEntry) -> tuple[int, datetime, tuple[str, str]]:
    return (-entry.priority, entry.created_at, entry.key)


def is_unschedulable(pod: PodView) -> bool:
    return pod.phase is PodPhase.PENDING and pod.unschedulable is not None and not pod.is_deleting


def who_is_ahead(observed: Observed, key: Key) -> LineEntry | None:
    """Whom a gang that is not whole has to let go first; None if it may be placed, or if it is the first itself."""
    own = next((entry for entry in observed.line if entry.key == key), None)
    others = [entry for entry in _of_open_namespaces(observed, key[0]) if not is_backing_off(entry, observed.now) and not entry.is_passed]
    if not any(entry.has_unschedulable for entry in others):
        return _who_is_let_in_before(observed, own, others)
    if own is not None and own.is_passed:
        return None
    running = next((entry for entry in others if entry.has_started and entry.has_unschedulable and entry.key != key), None)
    if running is not None:
        return running
    first = next((entry for entry in others if not entry.has_started), None)
    return None if first is None or first.key == key else first


def _of_open_namespaces(observed: Observed, own: str) -> Iterator[LineEntry]:
    """Without gangs of another namespace that may have no more pods, as a try has shown: nobody else waits for those."""
    shut = shut_namespaces(observed.line, observed.now) - {own}
    return (entry for entry in observed.line if entry.key[0] not in shut or entry.has_unschedulable or entry.has_started)


def shut_namespaces(line: Sequence[LineEntry], now: datetime) -> frozenset[str]:
    """Those in which a gang was refused and backs off."""
    return frozenset(entry.key[0] for entry in line if entry.is_refused and is_backing_off(entry, now))


def _who_is_let_in_before(observed: Observed, own: LineEntry | None, others: list[LineEntry]) -> LineEntry | None:
    """While nobody lacks room only the number of gangs in placement is limited."""
    if own is None or own.is_placing or own.has_started:
        return None
    placing = [entry for entry in others if entry.is_placing]
    waiting = [entry for entry in others if not entry.is_placing and not entry.has_started and order_of(entry) < order_of(own)]
    if len(placing) + len(waiting) < observed.num_placed_at_once:
        return None
    is_first = all(entry.key[0] != own.key[0] for entry in placing + waiting)
    may_go_beside = is_first and len(placing) < observed.num_placed_at_once + observed.num_placed_beside
    return None if may_go_beside else (placing + waiting)[0]


def is_backing_off(entry: LineEntry, now: datetime) -> bool:
    """It lets others go first."""
    return seconds_of_backoff(entry.backoff_until, now) > 0


def seconds_of_backoff(until: datetime | None, now: datetime) -> float:
    """What is left of a back-off. More than any back-off lasts is left only when the clock was set back: then nothing is."""
    seconds = 0.0 if until is None else (until - now).total_seconds()
    return seconds if 0 < seconds <= MAX_BACKOFF_SECONDS * (1 + BACKOFF_JITTER) else 0.0


def who_is_called(line: tuple[LineEntry, ...], freed_at: datetime | None, now: datetime) -> Key | None:
    """Room came back: the first of those that back off tries at once, and the next one only if that one found room."""
    waiting = [(entry, entry.gave_back_at) for entry in line if is_backing_off(entry, now)]
    if freed_at is None or any(at is not None and at >= freed_at for _, at in waiting):
        return None
    return next((entry.key for entry, at in waiting if at is not None), None)


def do_others_wait(observed: Observed, key: Key) -> bool:
    """One that backs off lets others go first."""
    return any(entry.key != key and not is_backing_off(entry, observed.now) for entry in observed.line)


def do_others_lack_room(observed: Observed, key: Key) -> bool:
    """Some other gang that waits its turn was told that there is no room, and not only that it is not let in yet."""
    others = [entry for entry in observed.line if entry.key != key and not is_backing_off(entry, observed.now)]
    return any(entry.has_unschedulable and not entry.is_passed for entry in others)


def whose_turn_may_come(line: Sequence[LineEntry], window: Window, now: datetime) -> frozenset[Key]:
    """Gangs in placement, of each namespace the first that wait, as many as may be let in at once, and the first that backs off.

    All others wait for one of these, or for a gang that has started, whatever changes.
    """
    found, num_waiting = set(), Counter[str]()
    for entry in line:
        if entry.is_placing:
            found.add(entry.key)
        elif not entry.has_started and not is_backing_off(entry, now) and num_waiting[entry.key[0]] < window.size:
            num_waiting[entry.key[0]] += 1
            found.add(entry.key)
    called = next((entry.key for entry in line if entry.gave_back_at is not None and is_backing_off(entry, now)), None)
    return frozenset(found if called is None else found | {called})


def is_luxury_due(observed: Observed, key: Key, priority: int) -> bool:
    """Nobody waits whom more pods of a gang that can train without them would overtake."""
    if do_others_wait(observed, key):
        return False
    urgent = (entry for entry in observed.line if entry.key != key and entry.priority > priority)
    return not any(is_backing_off(entry, observed.now) and entry.attempts <= LUXURY_ATTEMPTS for entry in urgent)
