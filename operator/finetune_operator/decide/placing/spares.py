"""Warm spares: members without a place, prepared like the others. One that is ready takes the place of a lost member at once.

They use room that nobody waits for: created last and given back first. Nothing that happens to them is counted against the job.
"""

from dataclasses import replace

from finetune_contract.plurals import counted
from finetune_contract.values import changed
from finetune_operator.api.status import JobStatus, MemberEntry, MemberFailures
from finetune_operator.decide.answers.answer import delete_pod, soonest
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.answers.members_answer import MembersAnswer
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.line import do_others_lack_room, do_others_wait, is_unschedulable
from finetune_operator.decide.placing.members import (
    back_off_after,
    count_a_loss,
    is_a_spare_refused,
    note_uids,
    seconds_left,
)
from finetune_operator.decide.recovering.diagnosis import Diagnosis


def fill_places_from_spares(gang: Gang, diagnosis: Diagnosis) -> tuple[Gang, tuple[Event, ...]]:
    """The gang as the rules after it see it: ready spares, lowest serial first, stand where members are lost, leave or are not ready."""
    usable = tuple(spare for spare in gang.spares if _is_usable(gang, spare))
    if not usable or not gang.observed.is_reconnect_over or gang.is_past_training:
        return gang, ()
    changes = tuple(zip(_places_to_fill(gang, diagnosis), usable, strict=False))
    status, lost, events = gang.status, [], []
    for member, spare in changes:
        why = diagnosis.lost.get(member.serial)
        if why is not None:
            lost.append(member)
            status = count_a_loss(gang, diagnosis, status, member)
            events.append(
                Event(type="Warning", reason="MemberLost", message=f"{member.name}: {why}; the spare {spare.name} takes its place")
            )
    promoted, replaced = [spare for _, spare in changes], [member for member, _ in changes]
    members = [member for member in gang.members if member not in replaced]
    spares = [spare for spare in gang.spares if spare not in promoted]
    moved = replace(
        gang,
        members=_by_serial([*members, *promoted]),
        spares=_by_serial([*spares, *(member for member in replaced if member not in lost)]),
        strays=(*gang.strays, *(member.pod for member in lost if member.pod is not None)),
    )
    status = changed(status, members=note_uids(moved))
    return replace(moved, job=changed(gang.job, status=status)), tuple(events)


def keep_spares(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """The rules of spares one after another, when those of members are done."""
    if not gang.observed.is_reconnect_over:
        return answer
    answer = replace(answer, status=changed(answer.status, lost_spares=_losses_after_good_news(gang)))
    for rule in SPARE_RULES:
        answer = rule(gang, diagnosis, answer)
    return answer


def hold_a_refused_spare(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """A quota that has no room for a spare is no trouble of the gang."""
    if not is_a_spare_refused(gang):
        return answer
    return _count(gang, answer, f"the cluster refused a spare: {gang.observed.last_applied_error}")


def drop_lost_spares(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """No disruption, no crash: the next one comes after a back-off."""
    lost = tuple((spare, why) for spare in gang.spares if (why := _why_lost(gang, diagnosis, spare)) is not None)
    if not lost:
        return answer
    counted = _count(gang, answer, "; ".join(f"{spare.name}: {why}" for spare, why in lost))
    return _without(counted, tuple(spare for spare, _ in lost))


def give_back_spares_without_room(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """Room belongs to the places of this gang first, then to other gangs, then to spares, the running ones included."""
    if not gang.policy.gives_back:
        return answer
    others_wait = do_others_wait(gang.observed, gang.job.key)
    if _is_whole(gang, answer.status) and not others_wait:
        return answer
    is_short = do_others_lack_room(gang.observed, gang.job.key)
    listed = {entry.serial for entry in answer.status.members}
    given = tuple(spare for spare in gang.spares if spare.serial in listed and (is_short or _has_no_room(spare)))
    if not given:
        return answer
    why = "another gang waits for room" if others_wait else "its own gang waits for room"
    events = tuple(Event(type="Normal", reason="SpareGivenBack", message=f"{spare.name}: {why}") for spare in given)
    return _without(replace(answer, events=(*answer.events, *events)), given)


def list_missing_spares(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """Only beside a gang whose places all have a node, while no other gang waits for one, and not while a recovery has all it needs.

    The first step of a formation does not wait for a newcomer on its node that imports torch.
    """
    status = answer.status
    missing = gang.spec.num_spares - (len(status.members) - len(status.places))
    if missing <= 0 or gang.is_past_training or not _is_whole(gang, status):
        return answer
    if not gang.policy.allows_spares(gang.observed, gang.job, gang.spec) or _is_about_to_step(gang, status):
        return answer
    wait = seconds_left(gang.now, back_off_after(status.lost_spares))
    if wait > 0:
        return replace(answer, look_again_seconds=soonest(answer.look_again_seconds, wait))
    serials = range(status.last_serial + 1, status.last_serial + 1 + missing)
    names = ", ".join(gang.job.member_name(serial) for serial in serials)
    event = Event(type="Normal", reason="MemberCreated", message=f"{counted(missing, 'spare')}: {names}")
    spares = (MemberEntry(serial=serial, is_spare=True) for serial in serials)
    status = changed(status, members=(*status.members, *spares), last_serial=serials[-1])
    return replace(answer, status=status, events=(*answer.events, event))


def create_spares(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """As with members a creation may be repeated; one that was refused is tried again later, and nothing waits for it."""
    missing = tuple(entry.serial for entry in answer.status.members if entry.is_spare and entry.uid is None)
    if not missing:
        return answer
    wait = seconds_left(gang.now, back_off_after(answer.status.lost_spares))
    if wait > 0:
        return replace(answer, look_again_seconds=soonest(answer.look_again_seconds, wait))
    return replace(answer, create=(*answer.create, *missing))


def _places_to_fill(gang: Gang, diagnosis: Diagnosis) -> list[Member]:
    """Of lost and leaving members first; then of those that are not ready, unless the newest formation knows them: they may come back."""
    crew = {member.serial for member in gang.crew}
    lost = [member for member in gang.members if member.serial in diagnosis.lost]
    absent = [member for member in gang.members if member not in lost and not member.is_ready and member.serial not in crew]
    return [*lost, *absent]


def _is_usable(gang: Gang, spare: Member) -> bool:
    return spare.is_ready and not _has_other_inputs(gang, spare)


def _has_other_inputs(gang: Gang, spare: Member) -> bool:
    """It must never train; and it must not end a job that trains without it."""
    pinned = None if gang.status.pinned is None else gang.status.pinned.inputs
    found = None if spare.run is None else spare.run.inputs
    return pinned is not None and found is not None and pinned.digests() != found


def _why_lost(gang: Gang, diagnosis: Diagnosis, spare: Member) -> str | None:
    return diagnosis.lost.get(spare.serial) or ("it found other bytes of model or data" if _has_other_inputs(gang, spare) else None)


def _count(gang: Gang, answer: MembersAnswer, why: str) -> MembersAnswer:
    failures = MemberFailures(count=answer.status.lost_spares.count + 1, last_at=gang.now)
    event = Event(type="Warning", reason="SpareMissing", message=why[:1000])
    return replace(answer, status=changed(answer.status, lost_spares=failures), events=(*answer.events, event))


def _losses_after_good_news(gang: Gang) -> MemberFailures:
    """A spare that connected since the last loss and is ready ends the count."""
    before = gang.status.lost_spares
    since = before.last_at
    ready = (spare.session for spare in gang.spares if spare.session is not None and _is_usable(gang, spare))
    is_well = since is not None and any(session.changed_at > since for session in ready)
    return MemberFailures() if is_well else before


def _is_whole(gang: Gang, status: JobStatus) -> bool:
    """Every place of the gang has a node; none is new."""
    placed = {member.serial for member in gang.members if member.is_placed}
    return status.placement.placing_since is None and len(placed) == gang.num_wanted == sum(
        entry.serial in placed for entry in status.places
    )


def _is_about_to_step(gang: Gang, status: JobStatus) -> bool:
    is_recovering = len(status.recoveries) > 0 and status.recoveries[-1].total_seconds is None
    return is_recovering and all(member.is_ready for member in gang.members)


def _has_no_room(spare: Member) -> bool:
    return spare.uid is None or (spare.pod is not None and is_unschedulable(spare.pod))


def _without(answer: MembersAnswer, spares: tuple[Member, ...]) -> MembersAnswer:
    serials = {spare.serial for spare in spares}
    kept = tuple(entry for entry in answer.status.members if entry.serial not in serials)
    live = (spare.pod for spare in spares if spare.pod is not None and spare.pod.holds_room)
    status = changed(answer.status, members=kept)
    return replace(answer, status=status, delete=(*answer.delete, *(delete_pod(pod) for pod in live)))


def _by_serial(members: list[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.serial))


SPARE_RULES = (
    hold_a_refused_spare,
    drop_lost_spares,
    give_back_spares_without_room,
    list_missing_spares,
    create_spares,
)
