"""A suspended job saves, then frees its members; it resumes like any other gang that waits for its turn."""

from datetime import datetime

from finetune_contract.orders import Commit, Stop
from finetune_contract.values import changed
from finetune_operator.api.status import Placement
from finetune_operator.decide.answers.answer import Answer, Phase, delete_pod
from finetune_operator.decide.answers.decision import Event, SendOrder
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.times import SUSPEND_SAVE_SECONDS

_WHY = "the job is suspended"


def suspend_a_suspended_job(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """Stop and save, then delete every member; commits stay where they are. Who has not reconnected yet may have something to save."""
    if not gang.spec.is_suspended:
        return None
    since = _saving_since(gang) or gang.now
    seconds_left = SUSPEND_SAVE_SECONDS - (gang.now - since).total_seconds()
    if gang.members and seconds_left > 0 and (_working(gang) or _unsaved_holder(gang) is not None or not gang.observed.is_reconnect_over):
        return _save(gang, seconds_left)
    return _free(gang)


def _saving_since(gang: Gang) -> datetime | None:
    """`Suspended` is Unknown exactly while the state is being saved."""
    told = gang.status.condition("Suspended")
    return told.last_transition_time if told is not None and told.status == "Unknown" else None


def _working(gang: Gang) -> tuple[Member, ...]:
    return tuple(member for member in gang.known if member.is_working)


def _unsaved_holder(gang: Gang) -> Member | None:
    """The first node rank that has a state in memory, if that state is not committed yet."""
    holders = (member for member in gang.crew if member.is_connected and member.newest_held is not None)
    holder = next(holders, None)
    if holder is None or holder.session is None or holder.newest_held is None:
        return None
    commits = [session.run.commit.order for session in gang.observed.sessions if session.run.commit is not None]
    return holder if max(commits, default=(-1, -1)) < holder.newest_held.order else None


def _save(gang: Gang, seconds_left: float) -> Answer:
    entry, status = gang.status.formation, gang.status
    if entry is not None and not entry.is_over:
        status = changed(status, formation=changed(entry, is_over=True, over_at=gang.now))
    return Answer(
        status=status,
        phase=Phase.SUSPENDING,
        reason="Saving",
        message="the newest state is being saved",
        orders=_orders(gang, seconds_left),
        look_again_seconds=max(seconds_left, 0.1),
    )


def _orders(gang: Gang, seconds_left: float) -> tuple[SendOrder, ...]:
    """Node rank 0 saves as it stops; if it is lost, another holder commits what it has."""
    term, deadline = gang.observed.term, max(seconds_left - 1, 1.0)
    holder = _unsaved_holder(gang)
    orders = []
    for rank, member in enumerate(gang.crew):
        saves = member is holder or (rank == 0 and member.is_working)
        if member.uid is None or member.run is None or not (member.is_working or saves):
            continue
        if rank == 0 or member.is_working:
            stop = Stop(term=term, formation=member.run.formation, why=_WHY, save=saves, deadline_seconds=deadline)
            orders.append(SendOrder(member_uid=member.uid, order=stop))
        if saves and rank > 0:
            orders.append(SendOrder(member_uid=member.uid, order=Commit(term=term, deadline_seconds=deadline)))
    return tuple(orders)


def _free(gang: Gang) -> Answer:
    live = tuple(pod for pod in gang.observed.pods if pod.holds_room)
    is_freed = not live and not gang.members
    status = changed(gang.status, members=(), placement=Placement())
    is_news = is_freed and not gang.status.is_true("Suspended")
    step = gang.status.last_commit.step if gang.status.last_commit is not None else 0
    message = f"no pods are kept; spec.suspend: false {f'goes on from step {step}' if step else 'starts it'}"
    return Answer(
        status=status,
        phase=Phase.SUSPENDED if is_freed else Phase.SUSPENDING,
        reason="Suspended" if is_freed else "Freeing",
        message=message,
        delete=tuple(delete_pod(pod) for pod in live),
        events=(Event(type="Normal", reason="Suspended", message=message),) if is_news else (),
    )
