"""The report of one pass: the same status value that carries the intent, and events on transitions. A pass without news keeps the old one.

Progress alone is written at most every 15 s; anything else is written at once, and progress with it.
"""

from datetime import datetime

from finetune_contract.reasons import NEWS_REASONS
from finetune_contract.reports import Progress, Warned
from finetune_contract.values import changed
from finetune_operator.api.job import LABEL_JOB_UID
from finetune_operator.api.status import MAX_WARNINGS, CommitEntry, JobStatus, ProgressEntry, WarningEntry
from finetune_operator.decide.answers.answer import Answer, soonest
from finetune_operator.decide.answers.decision import Decision, Event
from finetune_operator.decide.facts.gang import Gang
from finetune_operator.decide.facts.kueue import CAPTURED_BY_KUEUE
from finetune_operator.decide.reporting.columns import columns
from finetune_operator.decide.reporting.conditions import ENDED, conditions
from finetune_operator.decide.reporting.goodput import advance
from finetune_operator.decide.reporting.output import refused_outputs
from finetune_operator.decide.reporting.stragglers import straggler_of, straggler_warning
from finetune_operator.times import STATUS_PROGRESS_SECONDS

MAX_OF_A_KIND = 4


def report(gang: Gang, answer: Answer) -> Decision:
    """Status, events and the next look of a pass."""
    old = gang.status
    new = _told(gang, answer)
    warned = _warnings(gang, new, _captured(answer))
    told = tuple(_event(entry) for entry in warned)
    new = changed(new, warnings=(*old.warnings, *warned))
    wait = _seconds_until_due(gang, old, new)
    if wait is not None:
        new = old
    if new != old:
        new = changed(new, goodput=advance(old, new, gang.now))
    events = (*told, *_storage_changed(old, new))
    return Decision(
        status=new,
        create=answer.create,
        delete=answer.delete,
        orders=answer.orders,
        events=(*answer.events, *events, *_checkpoint_saved(old, new)) if answer.verdict is None else (*events, *answer.events),
        look_again_seconds=soonest(answer.look_again_seconds, wait),
    )


def _told(gang: Gang, answer: Answer) -> JobStatus:
    status, old = answer.status, gang.status
    is_over = answer.phase in ENDED
    progress = _progress(gang, old.progress)
    ready = {member.serial for member in gang.known if member.is_ready}
    num_ready = old.ready_members if is_over else sum(entry.serial in ready for entry in status.places)
    return changed(
        status,
        observed_generation=gang.job.metadata.generation,
        phase=answer.phase.value,
        conditions=conditions(gang, answer),
        progress=progress,
        last_commit=_last_commit(gang, old.last_commit),
        ready_members=num_ready,
        ready_spares=sum(entry.is_spare and entry.serial in ready for entry in status.members),
        selector=f"{LABEL_JOB_UID}={gang.job.metadata.uid}",
        columns=columns(
            phase=answer.phase,
            reason=answer.reason,
            num_ready=num_ready,
            num_wanted=gang.num_wanted,
            progress=progress,
            restarts=status.restarts,
        ),
    )


def _progress(gang: Gang, old: ProgressEntry | None) -> ProgressEntry | None:
    """Of the newest formation that reported a step; the moment stays while nothing else changes."""
    said = [session.run.progress for session in gang.observed.sessions]
    ended = [member.pod.finished.progress for member in gang.crew if member.pod is not None and member.pod.finished is not None]
    known = [progress for progress in (*said, *ended) if progress is not None]
    newest = max(known, key=lambda progress: (progress.formation, progress.step), default=None)
    if newest is None:
        return old
    fresh = _entry(gang, newest)
    if old is not None and changed(fresh, updated_at=old.updated_at) == old:
        return old
    return fresh


def _entry(gang: Gang, progress: Progress) -> ProgressEntry:
    numbers = progress.model_dump(exclude={"type", "formation", "slowest"})
    processed = tokens_processed(gang.status.progress, progress.tokens_total)
    return ProgressEntry(**numbers, tokens_processed=processed, straggler=straggler_of(gang, progress), updated_at=gang.now)


def tokens_processed(before: ProgressEntry | None, tokens_total: int) -> int:
    """Never falls: a state that falls back to an earlier step makes tokens that are processed once more, and nothing undone."""
    if before is None:
        return tokens_total
    return (before.tokens_processed or before.tokens_total) + max(0, tokens_total - before.tokens_total)


def _last_commit(gang: Gang, old: CommitEntry | None) -> CommitEntry | None:
    said = [(session.run.commit, session.run) for session in gang.observed.sessions if session.run.commit is not None]
    if not said:
        return old
    commit, newest = max(said, key=lambda pair: pair[0].order)
    if old is not None and commit.order <= (old.formation, old.step):
        return old
    return CommitEntry(
        formation=commit.formation,
        step=commit.step,
        key=newest.commit_key or "",
        num_bytes=newest.commit_num_bytes or 0,
        at=gang.now,
    )


def _seconds_until_due(gang: Gang, old: JobStatus, new: JobStatus) -> float | None:
    """None: write now (or nothing is new). Else only the quick numbers moved, and they were written a moment ago."""
    if _without_numbers(old) != _without_numbers(new) or old == new:
        return None
    written = [] if old.progress is None else [old.progress.updated_at]
    written += [] if old.last_commit is None else [old.last_commit.at]
    if not written:
        return None
    left = STATUS_PROGRESS_SECONDS - (gang.now - max(written)).total_seconds()
    return left if left > 0 else None


def _without_numbers(status: JobStatus) -> tuple[JobStatus, bool, bool]:
    """The status less what moves with every step, and whether there is any progress and any commit."""
    still = changed(status.columns, step="", loss="", eta="")
    return changed(status, progress=None, last_commit=None, columns=still), status.progress is not None, status.last_commit is not None


def _warnings(gang: Gang, new: JobStatus, captured: tuple[Warned, ...]) -> tuple[WarningEntry, ...]:
    """What members warned of, and who is slow, if it is not told yet.

    None is ever dropped, so that none is told again; the first few of a kind are enough.
    """
    known = list(gang.status.warnings)
    said = [pair for session in gang.observed.sessions for pair in session.run.warnings]
    said += [(remark.reason, remark.message) for remark in gang.observed.remarks]
    said += [(told.reason, told.message) for told in (*captured, *refused_outputs(gang))]
    entries = [WarningEntry(reason=reason[:128], message=words[:1000], at=gang.now) for reason, words in said]
    if (slow := straggler_warning(gang, None if new.progress is None else new.progress.straggler)) is not None:
        entries.append(slow)
    for entry in entries:
        same = [other for other in known if other.reason == entry.reason]
        if not any(_is_told_by(entry, other) for other in same) and len(same) < MAX_OF_A_KIND and len(known) < MAX_WARNINGS:
            known.append(entry)
    return tuple(known[len(gang.status.warnings) :])


def _is_told_by(entry: WarningEntry, known: WarningEntry) -> bool:
    return entry.message == known.message if entry.about is None else entry.about == known.about


def _event(entry: WarningEntry) -> Event:
    return Event(type="Normal" if entry.reason in NEWS_REASONS else "Warning", reason=entry.reason, message=entry.message)


def _captured(answer: Answer) -> tuple[Warned, ...]:
    return (Warned(reason="CapturedByKueue", message=answer.message),) if answer.reason == CAPTURED_BY_KUEUE else ()


def _storage_changed(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """Each outage of the store and each end of one."""
    before, after = old.condition("Checkpointed"), new.condition("Checkpointed")
    was_away = before is not None and before.status == "False"
    if after is not None and after.status == "False":
        is_told = before is not None and was_away and before.reason == after.reason
        return () if is_told else (Event(type="Warning", reason=after.reason, message=after.message[:1000]),)
    return (Event(type="Normal", reason="StorageUsable", message="the store can be used again"),) if was_away else ()


def _checkpoint_saved(old: JobStatus, new: JobStatus) -> tuple[Event, ...]:
    """At most one in a minute."""
    before, after = old.last_commit, new.last_commit
    if after is None or after is before or (before is not None and _minute(before.at) == _minute(after.at)):
        return ()
    return (Event(type="Normal", reason="CheckpointSaved", message=f"step {after.step} is committed"),)


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)
