"""Admission without a scheduler: gangs are placed optimistically, in order of (priority, age), and back off when they do not fit.

It counts no capacity and preempts nobody. A gang that has trained is not in anybody's way: it gives back only when it cannot be made
whole again within the placement timeout, because two such gangs could wait for each other for ever.
"""

from datetime import datetime, timedelta

from finetune_contract.config import CONTRACT_VERSION
from finetune_operator.api.status import JobStatus, Pinned, Placement
from finetune_operator.decide.answer import Answer, Phase, delete_pod, soonest
from finetune_operator.decide.decision import Event
from finetune_operator.decide.gang import Gang, Member
from finetune_operator.decide.line import is_unschedulable, who_is_ahead
from finetune_operator.decide.observed import LineEntry

FIRST_BACKOFF_SECONDS = 15
MAX_BACKOFF_SECONDS = 600


def is_incomplete(gang: Gang) -> bool:
    """Some place has no pod that a node has taken."""
    return len(gang.members) < gang.num_wanted or not all(member.is_placed or member.is_ended for member in gang.members)


def give_back_an_incomplete_gang(gang: Gang) -> Answer | None:
    """Refused, out of time, or in the way of a gang that is before it in the line."""
    placement, words = gang.status.placement, gang.observed.last_applied_error
    if placement.placing_since is None or not is_incomplete(gang) or gang.active is not None:
        return None
    if words is not None:
        return _give_back(gang, reason="Refused", why=f"the cluster refused a member: {words}", backs_off=True)
    if _is_out_of_time(gang) and not _can_go_on_smaller(gang):
        return _give_back(gang, reason="NoRoom", why=_no_room_in_time(gang), backs_off=True)
    ahead = who_is_ahead(gang.observed, gang.job.key)
    if ahead is not None:
        return _give_back(gang, reason="WaitsForOthers", why=_behind(ahead), backs_off=False)
    return None


def give_back_a_gang_that_cannot_be_whole_again(gang: Gang) -> Answer | None:
    """It has trained, lost members, and finds no room for new ones: it may hold what another gang waits for."""
    entry = gang.status.formation
    if entry is None or not entry.is_over or not gang.members or gang.is_placing or not gang.observed.is_judging:
        return None
    num_left = sum(not _is_stuck(gang, member, entry.over_at) for member in gang.members) + sum(spare.is_placed for spare in gang.spares)
    if num_left >= gang.job.spec.resources.nodes.min:
        return None
    return _give_back(gang, reason="NoRoom", why=_no_room_in_time(gang), backs_off=True)


def wait_for_a_turn(gang: Gang) -> Answer | None:
    """A job without places waits while it backs off or while an earlier gang finds no room."""
    placement = gang.status.placement
    if placement.placing_since is not None or gang.members:
        return None
    seconds = 0.0 if placement.backoff_until is None else (placement.backoff_until - gang.now).total_seconds()
    if 0 < seconds <= MAX_BACKOFF_SECONDS:  # more is left only when the clock was set back
        return _queued(gang, gang.status, reason="BackingOff", why=placement.why or "it backs off", look_again_seconds=seconds)
    ahead = who_is_ahead(gang.observed, gang.job.key)
    if ahead is None:
        return None
    return _queued(gang, gang.status, reason="WaitsForOthers", why=_behind(ahead))


def admit(gang: Gang) -> tuple[JobStatus, tuple[Event, ...]]:
    """The gang may be placed from now on; image and defaults are pinned for the job's life. Also: a whole gang is placed."""
    job, status = gang.job, gang.status
    if status.placement.placing_since is not None:
        is_settled = not is_incomplete(gang) or gang.active is not None or (_is_out_of_time(gang) and _can_go_on_smaller(gang))
        return (status.model_copy(update={"placement": Placement()}) if is_settled else status), ()
    if gang.members:
        return status, ()
    image = job.spec.image or gang.observed.trainer_image
    pinned = status.pinned or Pinned(image=image, contract_version=CONTRACT_VERSION, admitted_at=gang.now)
    placement = Placement(placing_since=gang.now, attempts=status.placement.attempts)
    update = {"pinned": pinned, "placement": placement, "start_time": status.start_time or gang.now}
    event = Event(type="Normal", reason="Admitted", message=f"{gang.num_wanted} member{'s' if gang.num_wanted > 1 else ''} may be placed")
    return status.model_copy(update=update), (event,)


def why_no_room(gang: Gang) -> str:
    """The scheduler's words about the first member without a node."""
    words = [member.pod.unschedulable for member in gang.members if member.pod is not None and is_unschedulable(member.pod)]
    if words:
        return words[0] or "Unschedulable"
    return gang.status.placement.why or "the scheduler said nothing"


def seconds_until_timeout(gang: Gang) -> float | None:
    since = gang.status.placement.placing_since
    if since is None:
        return None
    left = gang.job.spec.placement.timeout_seconds - (gang.now - since).total_seconds()
    return max(left, 0.0)


def _is_out_of_time(gang: Gang) -> bool:
    return seconds_until_timeout(gang) == 0


def _can_go_on_smaller(gang: Gang) -> bool:
    """An elastic gang needs nodes.min; the others may come later."""
    return sum(member.is_placed for member in gang.members) >= gang.job.spec.resources.nodes.min


def _is_stuck(gang: Gang, member: Member, over_at: datetime | None) -> bool:
    """No node took it, or its creation was refused, for as long as a placement may take."""
    if member.is_placed or member.is_ended:
        return False
    since = over_at if member.pod is None else member.pod.created_at
    is_blocked = gang.status.placement.why is not None if member.pod is None else is_unschedulable(member.pod)
    return is_blocked and since is not None and gang.now - since >= timedelta(seconds=gang.job.spec.placement.timeout_seconds)


def _no_room_in_time(gang: Gang) -> str:
    return f"no room for {gang.num_wanted} members within {gang.job.spec.placement.timeout_seconds} s: {why_no_room(gang)}"


def _give_back(gang: Gang, *, reason: str, why: str, backs_off: bool) -> Answer:
    before = gang.status.placement
    attempts = before.attempts + 1 if backs_off else before.attempts
    seconds = min(FIRST_BACKOFF_SECONDS * 2 ** max(attempts - 1, 0), MAX_BACKOFF_SECONDS)
    until = gang.now + timedelta(seconds=seconds) if backs_off else None
    placement = Placement(attempts=attempts, backoff_until=until, why=why[:1024])
    status = gang.status.model_copy(update={"members": (), "placement": placement})
    event = Event(type="Warning", reason="GaveBack", message=f"the members are given back: {why}"[:1000])
    return _queued(gang, status, reason=reason, why=why, events=(event,), look_again_seconds=seconds if backs_off else None)


def _queued(
    gang: Gang, status: JobStatus, *, reason: str, why: str, events: tuple[Event, ...] = (), look_again_seconds: float | None = None
) -> Answer:
    live = (pod for pod in gang.observed.pods if not pod.is_over and not pod.is_deleting)
    return Answer(
        status=status,
        phase=Phase.QUEUED,
        reason=reason,
        message=why,
        delete=tuple(delete_pod(pod) for pod in live),
        events=events,
        look_again_seconds=soonest(look_again_seconds),
    )


def _behind(ahead: LineEntry) -> str:
    return f"waits behind {'/'.join(ahead.key)}, for which there is no room yet"
