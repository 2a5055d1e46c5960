"""The last recoveries in status: begun when a formation ends, amended by better evidence, completed by the first new step."""

from datetime import datetime, timedelta

from finetune_contract.failures import FailureClass, FailureKind, kind_by_words
from finetune_contract.values import changed
from finetune_operator.api.status import FormationEntry, JobStatus, Recovery
from finetune_operator.decide.facts.gang import WORKING, Gang, Member
from finetune_operator.decide.recovering.trouble import Trouble
from finetune_operator.times import INSPECT_SECONDS

KEPT = 10
DEVICE_ERRORS = 2  # in a row


def of_formation(status: JobStatus, number: int) -> Recovery | None:
    """The recovery that the end of this formation began; it is counted when the next formation starts."""
    return next((recovery for recovery in status.recoveries if recovery.formation == number), None)


def has_a_bad_device(status: JobStatus, member_name: str) -> bool:
    """A new process on it was not enough: another pod may get another device."""
    newest = status.recoveries[-DEVICE_ERRORS:]
    return len(newest) == DEVICE_ERRORS and all(
        record.member == member_name and kind_of_record(record) is FailureKind.DEVICE for record in newest
    )


def is_inspected(status: JobStatus, now: datetime) -> bool:
    """A formation that hung is over, and its workers still write down where they stand."""
    entry = status.formation
    if entry is None or entry.over_at is None or now - entry.over_at >= timedelta(seconds=INSPECT_SECONDS):
        return False
    known = of_formation(status, entry.number)
    return known is not None and known.failure_class == FailureClass.HANG


def begin(status: JobStatus, gang: Gang, trouble: Trouble, *, detect_seconds: float | None = None) -> JobStatus:
    entry = status.formation
    assert entry is not None
    record = Recovery(
        formation=entry.number,
        failure_class=trouble.failure_class,
        kind=trouble.kind,
        reason=trouble.message[:1024],
        member=None if trouble.member is None else trouble.member[:64],
        at=gang.now,
        detect_seconds=_since_last_step(gang) if detect_seconds is None else detect_seconds,
    )
    return changed(status, recoveries=(*status.recoveries, record)[-KEPT:])


def amend(status: JobStatus, known: Recovery, trouble: Trouble) -> JobStatus:
    """A crash turns out to be the loss of a member, or what its victims saw turns out to have a cause."""
    better = changed(known, failure_class=trouble.failure_class, kind=trouble.kind, reason=trouble.message[:1024], member=trouble.member)
    return _swap(status, known, better)


def kind_of_record(record: Recovery) -> FailureKind:
    """Records of an operator that kept no kinds are read by their words."""
    if record.kind is not None:
        return FailureKind(record.kind)
    if record.failure_class == FailureClass.DISRUPTED:
        return FailureKind.LOSS
    return kind_by_words(record.reason) if record.failure_class == FailureClass.INFRASTRUCTURE else FailureKind.CAUSE


def note_order(status: JobStatus, before: FormationEntry, crew: tuple[Member, ...], now: datetime) -> JobStatus:
    """The next formation is ordered: when had the one before stopped, when was every member of the next one there?"""
    record = of_formation(status, before.number)
    if record is None:
        return status
    sessions = {member.serial: member.session for member in crew if member.session is not None}
    survivors = [session for serial, session in sessions.items() if serial in before.serials and session.run.phase not in WORKING]
    newcomers = [session for serial, session in sessions.items() if serial not in before.serials]
    stopped_at = max((record.at, *(session.run.phase_at for session in survivors if session.run.formation == before.number)))
    there_at = max((stopped_at, *(session.changed_at for session in newcomers)))
    ordered = changed(
        record,
        stop_seconds=_seconds(record.at, min(stopped_at, now)),
        replace_seconds=_seconds(min(stopped_at, now), min(there_at, now)),
        prepare_seconds=_seconds(min(there_at, now), now),
    )
    return _swap(status, record, ordered)


def complete(status: JobStatus, begun: FormationEntry, first_step_seconds: float | None, now: datetime) -> JobStatus:
    """`begun` has finished its first step: where did the seconds go?"""
    record = status.recoveries[-1] if status.recoveries else None
    if record is None or record.total_seconds is not None or record.formation >= begun.number:
        return status
    resumed, since_order = begun.resumed_step or 0, _seconds(begun.ordered_at, now)
    lost = max(begun.furthest_step - resumed, 0)
    first = min(first_step_seconds or 0.0, since_order)
    done = changed(
        record,
        resumed_step=resumed,
        lost_steps=lost,
        start_seconds=round(since_order - first, 3),
        first_step_seconds=first,
        total_seconds=_seconds(record.at, now),
    )
    restarts = changed(status.restarts, lost_steps=status.restarts.lost_steps + lost)
    return _swap(changed(status, restarts=restarts), record, done)


def trouble_of_record(record: Recovery) -> Trouble:
    return Trouble(
        failure_class=FailureClass(record.failure_class), kind=kind_of_record(record), message=record.reason, member=record.member
    )


def _swap(status: JobStatus, old: Recovery, new: Recovery) -> JobStatus:
    return changed(status, recoveries=tuple(new if record is old else record for record in status.recoveries))


def _since_last_step(gang: Gang) -> float | None:
    """Upper bound of the time to detection: nothing is known between the last reported step and now."""
    runs = [member.run for member in gang.crew if member.run is not None]
    times = [run.progressed_at for run in runs if run.progressed_at is not None]
    return None if not times else _seconds(max(times), gang.now)


def _seconds(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds(), 3)
