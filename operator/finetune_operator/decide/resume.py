"""Who goes into the next formation, in which order, and from which state it continues. It decides not whether one is made."""

from dataclasses import dataclass
from datetime import timedelta

from finetune_contract.state import StateId, newest_state
from finetune_operator.decide.gang import Gang, Member

ELASTIC_WAIT_SECONDS = 30.0  # a gang with min < max starts smaller after its missing members found no room for so long


@dataclass(frozen=True, kw_only=True)
class Resume:
    """`holder` has `state` in its memory; None: it is a commit, or nothing is known."""

    state: StateId | None
    holder: Member | None


def next_crew(gang: Gang) -> tuple[Member, ...]:
    """Members of the next formation in node rank order; empty while the gang is not ready."""
    ready = tuple(member for member in gang.members if member.is_ready)
    if len(gang.members) > gang.num_wanted:
        return ()  # the surplus is released first
    if len(ready) < gang.num_wanted:
        missing = tuple(member for member in gang.members if not member.is_ready)
        if len(ready) < gang.job.spec.resources.nodes.min or not all(_finds_no_room(gang, member) for member in missing):
            return ()
    return in_rank_order(ready)


def seconds_until_smaller(gang: Gang) -> float | None:
    """When a gang whose missing members find no room may start without them; None if that is not what it waits for."""
    missing = [member.pod for member in gang.members if not member.is_ready]
    waits = [
        ELASTIC_WAIT_SECONDS - (gang.now - pod.created_at).total_seconds()
        for pod in missing
        if pod is not None and pod.unschedulable is not None
    ]
    is_elastic = len(gang.members) - len(missing) >= gang.job.spec.resources.nodes.min
    return max(*waits, 0.1) if waits and is_elastic and len(waits) == len(missing) else None


def in_rank_order(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """The holder of the newest state first, so that node rank 0 needs nobody to begin; then by serial."""
    by_serial = sorted(members, key=lambda member: member.serial)
    first = max(by_serial, key=lambda member: _order(member.newest_held), default=None)
    return tuple(sorted(by_serial, key=lambda member: (member is not first, member.serial)))


def resume_point(gang: Gang, crew: tuple[Member, ...]) -> Resume:
    """The greatest (formation, step) over the snapshots of the crew and all commits that anybody knows."""
    held = newest_state(*(member.newest_held for member in crew))
    last = gang.status.last_commit
    written = None if last is None else StateId(formation=last.formation, step=last.step)
    commit = newest_state(written, *(session.commit for session in gang.observed.sessions))
    newest = newest_state(commit, held)
    if newest is None or held is None or held.order < newest.order:
        return Resume(state=newest, holder=None)
    return Resume(state=held, holder=next(member for member in crew if member.newest_held == held))


def next_number(gang: Gang) -> int:
    """Greater than every formation that anybody has seen."""
    seen = [gang.status.last_formation, gang.status.last_commit.formation if gang.status.last_commit is not None else 0]
    for session in gang.observed.sessions:
        seen.append(session.formation)
        seen += [state.formation for state in (session.commit, session.snapshot) if state is not None]
    return 1 + max(seen)


def _finds_no_room(gang: Gang, member: Member) -> bool:
    pod = member.pod
    if pod is None:  # its creation was refused
        return member.uid is None and gang.status.placement.why is not None
    return pod.unschedulable is not None and gang.now - pod.created_at >= timedelta(seconds=ELASTIC_WAIT_SECONDS)


def _order(state: StateId | None) -> tuple[int, int]:
    return (-1, -1) if state is None else state.order
