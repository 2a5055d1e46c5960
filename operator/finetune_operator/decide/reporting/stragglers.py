"""A rank that is slow step after step, told with the name of its member: in status while it lasts, as one warning for each formation."""

from finetune_contract.reports import Progress
from finetune_operator.api.status import StragglerEntry, WarningEntry
from finetune_operator.decide.facts.gang import Gang


def straggler_of(gang: Gang, progress: Progress) -> StragglerEntry | None:
    """None unless a rank of the newest formation is slow now."""
    slow, entry = progress.slowest, gang.status.formation
    if slow is None or entry is None or entry.number != progress.formation:
        return None
    node_rank = slow.rank // gang.spec.processes_per_node
    if node_rank >= len(entry.serials):
        return None
    return StragglerEntry(
        member=gang.job.member_name(entry.serials[node_rank]),
        rank=slow.rank,
        seconds=slow.seconds,
        others_seconds=slow.others_seconds,
        step_share=slow.step_share,
    )


def straggler_warning(gang: Gang, straggler: StragglerEntry | None) -> WarningEntry | None:
    """Told once for each formation and member."""
    entry = gang.status.formation
    if straggler is None or entry is None:
        return None
    times = straggler.seconds / max(straggler.others_seconds, 1e-9)
    message = (
        f"{straggler.member} slows formation {entry.number} down: rank {straggler.rank} takes {times:.1f} times as long as the others "
        f"for the same work ({straggler.seconds:.3g} s a micro-batch, {straggler.step_share:.0%} of a step's time); training goes on"
    )
    about = f"{straggler.member} in formation {entry.number}"
    return WarningEntry(reason="Straggler", message=message, about=about, at=gang.now)
