"""Who goes into the next formation, in which order, and from which state it continues. Whether one is made is decided elsewhere."""

from dataclasses import dataclass

from finetune_contract.failures import FailureClass
from finetune_contract.state import StateId, newest_state
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.recovering import recoveries
from finetune_operator.decide.recovering.starting import never_started


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
    waits = _waits_for_missing(gang)
    if len(ready) < gang.num_wanted and (len(ready) < gang.spec.min_nodes or not all(wait == 0 for wait in waits)):
        return ()
    ordered = in_rank_order(ready)
    return (*ordered[1:], ordered[0]) if _is_replay(gang) else ordered


def _is_replay(gang: Gang) -> bool:
    """A step that was not finite is computed again with every micro-batch on another rank: hardware or data?"""
    entry = gang.status.formation
    known = None if entry is None else recoveries.of_formation(gang.status, entry.number)
    return known is not None and known.failure_class == FailureClass.NOT_FINITE


def seconds_until_smaller(gang: Gang) -> float | None:
    """When an elastic gang may start without the members it misses; None if that is not what it waits for."""
    waits = _waits_for_missing(gang)
    is_elastic = len(gang.members) - len(waits) >= gang.spec.min_nodes
    known = [wait for wait in waits if wait is not None]
    return max(*known, 0.1) if known and is_elastic and len(known) == len(waits) else None


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
    commit = newest_state(written, *(session.run.commit for session in gang.observed.sessions))
    newest = newest_state(commit, held)
    if newest is None or held is None or held.order < newest.order:
        return Resume(state=newest, holder=None)
    return Resume(state=held, holder=next(member for member in crew if member.newest_held == held))


def next_number(gang: Gang) -> int:
    """Greater than every formation that anybody has seen."""
    seen = [gang.status.last_formation, gang.status.last_commit.formation if gang.status.last_commit is not None else 0]
    for session in gang.observed.sessions:
        seen.append(session.run.formation)
        seen += [state.formation for state in (session.run.commit, session.run.snapshot) if state is not None]
    return 1 + max(seen)


def _waits_for_missing(gang: Gang) -> tuple[float | None, ...]:
    return tuple(_seconds_to_wait_for(gang, member) for member in gang.members if not member.is_ready)


def _seconds_to_wait_for(gang: Gang, member: Member) -> float | None:
    """Seconds that an elastic gang waits for a member that is not ready; 0: the gang goes on without that member; None: no limit.

    A member of the newest formation that still lives may hold the newest state, and it comes back or is found to be lost.
    """
    entry, pod = gang.status.formation, member.pod
    if pod is None and member.uid is None and gang.status.placement.why is not None:
        return 0.0  # its creation was refused
    if never_started(gang, member):
        return 0.0
    is_of_the_crew = entry is not None and member.serial in entry.serials
    since = [pod.created_at] if pod is not None and pod.unschedulable is not None else []
    if entry is not None and entry.over_at is not None and (not is_of_the_crew or member.is_ended):
        since.append(entry.over_at)
    if not since:
        return None
    waited = (gang.now - min(since)).total_seconds()
    return max(gang.spec.elastic_wait_seconds - waited, 0.0)


def _order(state: StateId | None) -> tuple[int, int]:
    return (-1, -1) if state is None else state.order
