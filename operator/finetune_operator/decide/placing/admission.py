"""Admission without a scheduler: gangs are placed optimistically, in order of (priority, age), and back off when they do not fit.

It counts no capacity and preempts nobody. A gang that has trained is not in anybody's way: it gives back only when it cannot be made
whole again within the placement timeout, because two such gangs could wait for each other for ever.
"""

from datetime import datetime, timedelta
from hashlib import sha256

from finetune_contract.backoff import Backoff
from finetune_contract.config import CONTRACT_VERSION
from finetune_contract.plurals import counted
from finetune_contract.values import changed
from finetune_operator.api.status import JobStatus, Pinned, Placement
from finetune_operator.decide.answers.answer import Answer, Phase, delete_pod, soonest
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.line import (
    do_others_wait,
    had_its_turn,
    is_unschedulable,
    who_is_ahead,
)
from finetune_operator.decide.facts.policy import WAITS_FOR_OTHERS
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.times import BACKOFF_JITTER, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS

_BACKOFF = Backoff(first_seconds=FIRST_BACKOFF_SECONDS, longest_seconds=MAX_BACKOFF_SECONDS)


def is_incomplete(gang: Gang) -> bool:
    """Fewer than nodes.min places have a pod that a node has taken."""
    return sum(member.is_placed or member.is_ended for member in gang.members) < gang.spec.min_nodes


def give_back_an_incomplete_gang(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """Refused, out of time, or in the way of a gang that is before it in the line."""
    placement, words = gang.status.placement, gang.observed.last_applied_error
    if not gang.policy.gives_back or placement.placing_since is None or not is_incomplete(gang) or gang.active is not None:
        return None
    if words is not None:
        return give_back(gang, reason="Refused", why=f"the cluster refused a member: {words}", backs_off=True, is_refused=True)
    if _is_out_of_time(gang):
        return give_back(gang, reason="NoRoom", why=_no_room_in_time(gang), backs_off=True)
    if who_is_ahead(gang.observed, gang.job.key) is not None:
        return give_back(gang, reason=WAITS_FOR_OTHERS.reason, why=WAITS_FOR_OTHERS.message, backs_off=False)
    if _holds_idle_room_that_others_want(gang):
        why = f"others go first, for its turn is over and {counted(gang.num_wanted, 'member')} did not all find room: {why_no_room(gang)}"
        return give_back(gang, reason="NoRoom", why=why, backs_off=True)
    return None


def give_back_a_gang_that_cannot_be_whole_again(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """It has trained, lost members, and finds no room for new ones: it may hold what another gang waits for."""
    entry = gang.status.formation
    if not gang.policy.gives_back or entry is None or not entry.is_over or not gang.members:
        return None
    if gang.is_placing or not gang.observed.is_reconnect_over:
        return None
    num_left = sum(not _is_stuck(gang, member, entry.over_at) for member in gang.members) + sum(spare.is_placed for spare in gang.spares)
    if num_left >= gang.spec.min_nodes:
        return None
    return give_back(gang, reason="NoRoom", why=_no_room_in_time(gang), backs_off=True)


def wait_for_a_turn(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """A job without places waits while its policy says so: while it backs off, or while an earlier gang finds no room."""
    if gang.is_placing or gang.members:
        return None
    wait = gang.policy.why_not_yet(gang.observed, gang.job)
    if wait is None:
        return None
    return _queued(gang, gang.status, reason=wait.reason, why=wait.message, look_again_seconds=wait.seconds)


def admit(gang: Gang) -> tuple[JobStatus, tuple[Event, ...]]:
    """The gang may be placed from now on; image and defaults are pinned for the job's life. Also: a whole gang is placed."""
    spec, status = gang.spec, gang.status
    if status.placement.placing_since is not None:
        is_settled = not is_incomplete(gang) or gang.active is not None
        return (changed(status, placement=Placement()) if is_settled else status), ()
    if gang.members:
        return status, ()
    image = spec.image or gang.observed.trainer_image
    pinned = status.pinned or Pinned(image=image, contract_version=CONTRACT_VERSION, admitted_at=gang.now)
    placement = Placement(placing_since=gang.now, attempts=status.placement.attempts)
    size = f"{spec.max_nodes}" if spec.min_nodes == spec.max_nodes else f"{spec.min_nodes} to {spec.max_nodes}"
    event = Event(type="Normal", reason="Admitted", message=f"{size} member{'s' if spec.max_nodes > 1 else ''} may be placed")
    return changed(status, pinned=pinned, placement=placement, start_time=status.start_time or gang.now), (event,)


def why_no_room(gang: Gang) -> str:
    """The scheduler's words about the first member without a node."""
    words = [member.pod.unschedulable for member in gang.members if member.pod is not None and is_unschedulable(member.pod)]
    if words:
        return words[0] or "Unschedulable"
    return gang.status.placement.why or "the scheduler said nothing"


def seconds_until_timeout(gang: Gang) -> float | None:
    """None also for a gang that then gives nothing back."""
    since = gang.status.placement.placing_since
    if since is None or not gang.policy.gives_back:
        return None
    left = gang.spec.placement_timeout_seconds - (gang.now - since).total_seconds()
    return max(left, 0.0)


def _is_out_of_time(gang: Gang) -> bool:
    return seconds_until_timeout(gang) == 0


def _holds_idle_room_that_others_want(gang: Gang) -> bool:
    """It keeps nodes from gangs that may fit, and none came to it for a whole turn."""
    has_some = any(member.is_placed and not member.is_ended for member in gang.members)
    return has_some and do_others_wait(gang.observed, gang.job.key) and had_its_turn(gang.status, gang.observed.pods, gang.now)


def _is_stuck(gang: Gang, member: Member, over_at: datetime | None) -> bool:
    """No node took it, or its creation was refused, for as long as a placement may take."""
    if member.is_placed or member.is_ended:
        return False
    since = over_at if member.pod is None else member.pod.created_at
    is_blocked = gang.status.placement.why is not None if member.pod is None else is_unschedulable(member.pod)
    return is_blocked and since is not None and gang.now - since >= timedelta(seconds=gang.spec.placement_timeout_seconds)


def _no_room_in_time(gang: Gang) -> str:
    return f"no room for {counted(gang.num_wanted, 'member')} within {gang.spec.placement_timeout_seconds} s: {why_no_room(gang)}"


def give_back(gang: Gang, *, reason: str, why: str, backs_off: bool, least_seconds: float = 0.0, is_refused: bool = False) -> Answer:
    """Every member goes, and the job waits: for its turn, or, with `backs_off`, for a time that doubles with every failure."""
    before = gang.status.placement
    attempts = before.attempts + 1 if backs_off else before.attempts
    seconds = max(backoff_seconds(gang.job.metadata.uid, attempts), min(least_seconds, MAX_BACKOFF_SECONDS))
    until = gang.now + timedelta(seconds=seconds) if backs_off else None
    gave_back_at = gang.now if backs_off else None
    placement = Placement(attempts=attempts, backoff_until=until, gave_back_at=gave_back_at, why=why[:1024], is_refused=is_refused)
    status = changed(gang.status, members=(), placement=placement)
    event = Event(type="Warning", reason="GaveBack", message=f"the members are given back: {why}"[:1000])
    return _queued(gang, status, reason=reason, why=why, events=(event,), look_again_seconds=seconds if backs_off else None)


def _queued(
    gang: Gang, status: JobStatus, *, reason: str, why: str, events: tuple[Event, ...] = (), look_again_seconds: float | None = None
) -> Answer:
    live = (pod for pod in gang.observed.pods if pod.holds_room)
    return Answer(
        status=status,
        phase=Phase.QUEUED,
        reason=reason,
        message=why,
        delete=tuple(delete_pod(pod) for pod in live),
        events=events,
        look_again_seconds=soonest(look_again_seconds),
    )


def backoff_seconds(uid: str, attempts: int) -> float:
    """Spread by the job's uid, so that gangs that gave back together do not come back together."""
    seconds = _BACKOFF.after(max(attempts, 1))
    share = int.from_bytes(sha256(f"{uid}:{attempts}".encode()).digest()[:4], "big") / 2**32
    return round(seconds * (1 + BACKOFF_JITTER * (2 * share - 1)), 3)
