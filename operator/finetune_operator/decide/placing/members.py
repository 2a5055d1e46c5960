"""The places of a gang: replace a lost or leaving member, release a surplus one, create what is listed, clear what is not.

A serial enters the status before its pod is created and leaves only when its pod was seen gone, ended, leaving or useless.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from finetune_contract.backoff import Backoff
from finetune_contract.failures import FailureClass
from finetune_contract.plurals import counted
from finetune_contract.values import changed
from finetune_operator.api.status import JobStatus, MemberEntry, MemberFailures
from finetune_operator.decide.answers.answer import delete_pod, soonest
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.answers.members_answer import MembersAnswer
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.line import num_to_replace
from finetune_operator.decide.placing.extras import give_back_extras_without_room, num_asked_for, placed_serials
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.decide.recovering.remedy import count_outside
from finetune_operator.times import (
    FIRST_REFUSED_BACKOFF_SECONDS,
    FIRST_SILENT_BACKOFF_SECONDS,
    MAX_REFUSED_BACKOFF_SECONDS,
    MAX_SILENT_BACKOFF_SECONDS,
    PRECEDENCE_AGAIN_SECONDS,
)

KEPT_FAILED_PODS = 3
_REFUSED = Backoff(first_seconds=FIRST_REFUSED_BACKOFF_SECONDS, longest_seconds=MAX_REFUSED_BACKOFF_SECONDS)
_SILENT = Backoff(first_seconds=FIRST_SILENT_BACKOFF_SECONDS, longest_seconds=MAX_SILENT_BACKOFF_SECONDS)


def keep_members(gang: Gang, diagnosis: Diagnosis, status: JobStatus) -> MembersAnswer:
    """The rules of members one after another; `status` is what the rules of formations left."""
    answer = MembersAnswer(status=changed(status, members=note_uids(gang), silent_members=_silence_after(gang)))
    for rule in MEMBER_RULES:
        answer = rule(gang, diagnosis, answer)
    return answer


def note_uids(gang: Gang) -> tuple[MemberEntry, ...]:
    """A uid is noted when its pod was seen, so that a later absence means that it is gone."""
    spares = (MemberEntry(serial=spare.serial, uid=spare.uid, is_spare=True) for spare in gang.spares)
    return (*(MemberEntry(serial=member.serial, uid=member.uid) for member in gang.members), *spares)


def replace_lost_and_leaving_members(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """At once, by a new serial: the replacement of a leaving member is ready before that one goes, unless its policy breaks first."""
    status, entries, events = answer.status, list(answer.status.members), list(answer.events)
    last = status.last_serial
    for member in gang.members:
        why = diagnosis.lost.get(member.serial)
        if why is None:
            continue
        last += 1
        entries = [entry for entry in entries if entry.serial != member.serial] + [MemberEntry(serial=last)]
        status = count_a_loss(gang, diagnosis, status, member)
        new_name = gang.job.member_name(last)
        events.append(Event(type="Warning", reason="MemberLost", message=f"{member.name}: {why}; its replacement is {new_name}"))
    status = changed(status, members=tuple(entries), last_serial=last)
    return replace(answer, status=status, events=tuple(events))


def release_surplus_members(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """Fewer nodes are wanted: those that train in no formation go first, then the youngest."""
    entries = answer.status.places
    surplus = len(entries) - gang.num_wanted
    if surplus <= 0:
        return answer
    crew = {member.serial for member in gang.crew} if gang.active is not None else set()
    youngest_first = sorted(entries, key=lambda entry: (entry.serial in crew, -entry.serial))
    released = {entry.serial for entry in youngest_first[:surplus]}
    kept = tuple(entry for entry in answer.status.members if entry.serial not in released)
    return replace(answer, status=changed(answer.status, members=kept))


def fill_empty_places(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """New serials for the places that are asked for and that nobody has."""
    status = answer.status
    missing = num_asked_for(gang, placed_serials(gang), status.places) - len(status.places)
    if missing <= 0:
        return answer
    serials = range(status.last_serial + 1, status.last_serial + 1 + missing)
    first = gang.job.member_name(serials[0])
    names = first if missing == 1 else f"{first} to {gang.job.member_name(serials[-1])}"
    event = Event(type="Normal", reason="MemberCreated", message=f"{counted(missing, 'member')}: {names}")
    members = (*status.members, *(MemberEntry(serial=serial) for serial in serials))
    status = changed(status, members=members, last_serial=serials[-1])
    return replace(answer, status=status, events=(*answer.events, event))


def note_since_when_members_are_replaced(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """From the first loss, and not anew for those within half an hour of it: a gang goes before others for a bounded time in all.

    The losses of all gangs of a namespace count together, so that a tenant with more jobs holds up the others for no longer.
    """
    status, since = answer.status, answer.status.replacing_since
    if status.placement.placing_since is not None:
        return answer
    if num_to_replace(gang.spec.min_nodes, status, gang.observed.pods) > 0:
        since = since or gang.observed.first_loss_at or gang.now
    elif since is not None and not timedelta(0) <= gang.now - since < timedelta(seconds=PRECEDENCE_AGAIN_SECONDS):
        since = None
    return replace(answer, status=changed(status, replacing_since=since))


def hold_creations_that_were_refused(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """A running gang keeps what it has when a replacement is refused, says why, and tries again later."""
    placement, words = answer.status.placement, gang.observed.last_applied_error
    if words is not None and not is_a_spare_refused(gang):
        attempts = placement.attempts + 1
        until = gang.now + timedelta(seconds=_REFUSED.after(attempts))
        placement = changed(placement, attempts=attempts, backoff_until=until, why=words[:1024])
    elif placement.backoff_until is not None and all(entry.uid is not None for entry in answer.status.places):
        placement = changed(placement, attempts=0, backoff_until=None, why=None)
    return replace(answer, status=changed(answer.status, placement=placement))


def clear_what_is_not_listed(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """Surplus pods go; a leaving member of the running formation stays until it is left; the last failed ones stay for their logs."""
    listed = {entry.serial for entry in answer.status.members}
    formation = answer.status.formation
    crew = set(formation.uids) if formation is not None and not formation.is_over else set()
    candidates = [*gang.strays, *(member.pod for member in gang.members if member.pod is not None and member.serial not in listed)]
    live = [pod for pod in candidates if pod.holds_room and pod.uid not in crew]
    failed = sorted((pod for pod in candidates if pod.is_over and not pod.is_kept_by_others), key=lambda pod: pod.serial, reverse=True)
    doomed = (*live, *(pod for pod in failed[KEPT_FAILED_PODS:] if not pod.is_deleting))
    return replace(answer, delete=tuple(delete_pod(pod) for pod in doomed))


def create_what_is_listed(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """One creation for each place whose pod was never seen; it may be repeated, because names are never used twice."""
    missing = tuple(entry.serial for entry in answer.status.places if entry.uid is None)
    if not missing:
        return answer
    silent_until = back_off_after(answer.status.silent_members)
    wait = max(seconds_left(gang.now, silent_until), seconds_left(gang.now, answer.status.placement.backoff_until))
    if wait > 0:
        return replace(answer, look_again_seconds=soonest(answer.look_again_seconds, wait))
    return replace(answer, create=missing)


def _silence_after(gang: Gang) -> MemberFailures:
    """Members that ended without a word are counted until one says hello."""
    silent = gang.status.silent_members
    if silent.count == 0 or silent.last_at is None:
        return silent
    heard = any(session.is_connected and session.changed_at > silent.last_at for session in gang.observed.sessions)
    return MemberFailures() if heard else silent


def count_a_loss(gang: Gang, diagnosis: Diagnosis, status: JobStatus, member: Member) -> JobStatus:
    """Losses outside of any formation: silent ends delay the next creation, crashes while preparing use up the budget."""
    if member.serial in diagnosis.silent:
        silent = status.silent_members
        return changed(status, silent_members=MemberFailures(count=silent.count + 1, last_at=gang.now))
    trouble = diagnosis.crashed.get(member.serial)
    if trouble is None or trouble.failure_class is FailureClass.USER_ERROR:
        return status
    return changed(status, restarts=count_outside(status.restarts))


def is_a_spare_refused(gang: Gang) -> bool:
    """Spares are created only when every place has its pod, so that a refusal is about the one or the other."""
    is_about_a_spare = all(member.uid is not None for member in gang.members) and any(spare.uid is None for spare in gang.spares)
    return gang.observed.last_applied_error is not None and is_about_a_spare


def back_off_after(failures: MemberFailures) -> datetime | None:
    """1, 2, 4 .. seconds after the last of so many in a row."""
    if failures.count == 0 or failures.last_at is None:
        return None
    return failures.last_at + timedelta(seconds=_SILENT.after(failures.count))


def seconds_left(now: datetime, until: datetime | None) -> float:
    """More than any back-off takes is left only when the clock was set back since: then nothing is."""
    left = 0.0 if until is None else (until - now).total_seconds()
    return left if 0 < left <= MAX_SILENT_BACKOFF_SECONDS else 0.0


MEMBER_RULES = (
    replace_lost_and_leaving_members,
    release_surplus_members,
    fill_empty_places,
    give_back_extras_without_room,
    note_since_when_members_are_replaced,
    hold_creations_that_were_refused,
    clear_what_is_not_listed,
    create_what_is_listed,
)
