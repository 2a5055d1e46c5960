"""The line of gangs that wait or are being placed, ordered by (priority, age); who has to let whom go first."""

from datetime import datetime, timedelta

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.observed import LineEntry, Observed, PodPhase, PodView


def line_entry(job: FineTuneJob, pods: tuple[PodView, ...], now: datetime) -> LineEntry | None:
    """The place of one job in the line; None if it neither waits nor lacks room."""
    status = job.status
    if job.metadata.deletion_timestamp is not None or status.is_ended or job.spec.suspend:
        return None
    listed = {entry.serial for entry in status.places}
    without_room = [pod for pod in pods if pod.serial in listed and is_unschedulable(pod)]
    is_placing = status.placement.placing_since is not None
    has_started = bool(status.members) and not is_placing
    timeout = timedelta(seconds=job.spec.placement.timeout_seconds)
    if has_started and not any(now - pod.created_at < timeout for pod in without_room):
        return None
    return LineEntry(
        key=job.key,
        uid=job.metadata.uid,
        priority=job.spec.priority,
        created_at=job.metadata.creation_timestamp or now,
        is_placing=is_placing,
        has_unschedulable=bool(without_room),
        has_started=has_started,
        backoff_until=None if status.members else status.placement.backoff_until,
    )


def order_of(entry: LineEntry) -> tuple[int, datetime, tuple[str, str]]:
    return (-entry.priority, entry.created_at, entry.key)


def whose_turn(line: tuple[LineEntry, ...], now: datetime) -> frozenset[tuple[str, str]]:
    """Gangs that wait or are being placed and have to let nobody go first. `line` is in order; the same rule as `who_is_ahead`."""
    waiters = tuple(entry for entry in line if not entry.has_started)
    if not any(entry.has_unschedulable for entry in line):
        return frozenset(entry.key for entry in waiters)
    if any(entry.has_started and entry.has_unschedulable and not _backs_off(entry, now) for entry in line):
        return frozenset()
    first = next((entry.key for entry in waiters if not _backs_off(entry, now)), None)
    return frozenset() if first is None else frozenset((first,))


def _backs_off(entry: LineEntry, now: datetime) -> bool:
    return entry.backoff_until is not None and entry.backoff_until > now


def is_unschedulable(pod: PodView) -> bool:
    return pod.phase is PodPhase.PENDING and pod.unschedulable is not None and not pod.is_deleting


def who_is_ahead(observed: Observed, key: tuple[str, str]) -> LineEntry | None:
    """Whom a gang that is not whole has to let go first; None while there is room for all, or if it is the first itself."""
    if not any(entry.has_unschedulable for entry in observed.line):
        return None
    others = [entry for entry in observed.line if not _backs_off(entry, observed.now)]
    running = next((entry for entry in others if entry.has_started and entry.has_unschedulable and entry.key != key), None)
    if running is not None:
        return running
    first = next((entry for entry in others if not entry.has_started), None)
    return None if first is None or first.key == key else first
