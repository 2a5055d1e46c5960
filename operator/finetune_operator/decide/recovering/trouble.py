"""Why a formation cannot go on, on positive evidence only, and which of several reports explains it. It counts nothing."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_contract.failures import ExitCode, FailureClass, FailureKind, FailureReport, kind_of
from finetune_contract.messages import MemberPhase
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.observed import PodPhase, PodView, RunFacts
from finetune_operator.times import LEAVE_MARGIN_SECONDS, STALL_SECONDS, UNANNOUNCED_SECONDS, UNREACHABLE_SECONDS

STALL_STEPS = 3

FINISHED_BEFORE = "it had finished when the formation was ordered"

# The smaller explains more.
_WEIGHT = {FailureKind.LOSS: 0, FailureKind.CAUSE: 1, FailureKind.DEVICE: 1, FailureKind.STALL: 2, FailureKind.VICTIM: 3}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One piece of evidence. `why` says the same as `message` without the name of the member."""

    failure_class: FailureClass
    kind: FailureKind
    message: str
    member: str | None
    why: str = ""

    @property
    def is_victim(self) -> bool:
        return self.kind is FailureKind.VICTIM


def trouble_of(gang: Gang) -> Trouble | None:
    """The evidence that explains best why the newest formation ended; None while nothing speaks against it."""
    entry = gang.status.formation
    if entry is None or not gang.observed.is_reconnect_over:
        return None
    alone = gang.is_past_training
    found = [trouble for member in gang.crew[:1] if alone for trouble in _evidence(gang, member, entry.number)]
    if not alone:
        found = [trouble for member in gang.crew for trouble in _evidence(gang, member, entry.number)]
    best = min(found, key=_weight, default=None)
    if best is not None and best.is_victim:
        leaving = next((member for member in gang.crew if member.is_leaving), None)
        return best if leaving is None else told_to_end(leaving)
    return best


def _weight(trouble: Trouble) -> tuple[int, bool]:
    """Of two lost members the one that was taken explains more than the one that ended by itself, which may have followed it."""
    return _WEIGHT[trouble.kind], trouble.failure_class is not FailureClass.DISRUPTED


def _evidence(gang: Gang, member: Member, formation: int) -> list[Trouble]:
    run = member.run
    if member.is_gone:
        return [_disrupted(member, "its pod is gone")]
    if member.pod is not None and member.pod.is_over:
        ended = trouble_of_ended_pod(member, member.pod)
        return [] if ended is None else [ended]
    found = []
    if run is not None and run.failure is not None and _failed_in(run, formation):
        found.append(_reported(_culprit(gang, member, run.failure), run.failure))
    if gang.active is not None and has_finished_before(gang, member):
        found.append(_disrupted(member, FINISHED_BEFORE))
    if gang.active is not None and _is_out_of_time(gang, member):
        found.append(told_to_end(member))
    if gang.active is not None and is_unreachable(gang, member):
        found.append(_disrupted(member, "neither the operator nor any of its peers can reach it"))
    if gang.active is not None and _is_stalled(gang, member, formation):
        found.append(_stalled(gang, member))
    return found


def has_finished_before(gang: Gang, member: Member) -> bool:
    """It published in an older formation just when the newest was ordered, and takes no more part; whoever comes next finds its adapter."""
    entry, run = gang.status.formation, member.run
    if entry is None or run is None or run.output is None or run.phase is not MemberPhase.FINISHED:
        return False
    return 0 < run.formation < entry.number


def _failed_in(run: RunFacts, formation: int) -> bool:
    """True if the member reported a failure of this formation, or its hello says FAILED in it: it failed while the channel was down."""
    return run.failed_formation == formation or (run.phase is MemberPhase.FAILED and run.formation == formation)


def trouble_of_ended_pod(member: Member, pod: PodView) -> Trouble | None:
    """None for a pod that ended with its work done. One that ended by itself is a lost member whoever deletes what is left of it."""
    if pod.phase is PodPhase.SUCCEEDED or pod.exit_code == ExitCode.FINISHED:
        return None
    if pod.disruption is not None:
        return _disrupted(member, f"its pod was ended ({pod.disruption})")
    if pod.is_oom_killed:
        message = f"{member.name} was killed for using more memory than its limit"
        return Trouble(failure_class=FailureClass.OUT_OF_MEMORY, kind=FailureKind.CAUSE, message=message, member=member.name, why=message)
    if pod.is_deleting or pod.exit_code == ExitCode.LEAVING:
        return _disrupted(member, "its pod was told to end")
    if pod.last_words is not None:
        told = _reported(member, pod.last_words)
        return replace(told, kind=FailureKind.LOSS) if told.kind is FailureKind.CAUSE else told
    code = "" if pod.exit_code is None else f" with exit code {pod.exit_code}"
    message = f"{member.name} ended{code}"
    return Trouble(failure_class=FailureClass.INFRASTRUCTURE, kind=FailureKind.LOSS, message=message, member=member.name, why=message)


def trouble_outside(gang: Gang, member: Member) -> Trouble | None:
    """A crash that no formation counts: the member could not prepare, or ended by itself before it took part."""
    if (failure := unprepared(member)) is not None:
        return _reported(member, failure)
    if member.pod is None or not member.pod.is_over or member.serial in {other.serial for other in gang.crew}:
        return None
    trouble = trouble_of_ended_pod(member, member.pod)
    return None if trouble is None or trouble.failure_class is FailureClass.DISRUPTED else trouble


def unprepared(member: Member) -> FailureReport | None:
    """The failure of a member that has no inputs and makes no further attempt."""
    run = member.run
    return run.failure if run is not None and run.inputs is None and run.phase is MemberPhase.FAILED else None


def is_silent_end(gang: Gang, member: Member) -> bool:
    """It ended, or is about to, without a word to anybody; whoever took part in a formation has spoken."""
    if member.session is not None or member.serial in {other.serial for other in gang.crew}:
        return False
    return (member.is_ended or member.is_leaving) and (member.pod is None or member.pod.last_words is None)


def seconds_until_unreachable(gang: Gang) -> float | None:
    """When the next member whose channel is down may be given up: no pass may come just before that and the next one long after."""
    sessions = [member.session for member in gang.crew if member.session is not None and not member.session.is_connected]
    waits = [UNREACHABLE_SECONDS - (gang.now - session.changed_at).total_seconds() for session in sessions]
    return min((wait for wait in waits if wait > 0), default=None)


def is_unreachable(gang: Gang, member: Member) -> bool:
    """Its channel is down and every connected peer that was asked cannot reach it."""
    session = member.session
    if session is None or session.is_connected or member.is_ended or not gang.observed.is_reconnect_over:
        return False
    if gang.now - session.changed_at < timedelta(seconds=UNREACHABLE_SECONDS):
        return False
    peers = [peer.session for peer in gang.crew if peer.is_connected and peer.session is not None]
    return bool(peers) and all(member.uid in peer.unreachable_peers for peer in peers)


def _is_out_of_time(gang: Gang, member: Member) -> bool:
    until = leaves_by(gang, member)
    return until is not None and gang.now >= until - timedelta(seconds=LEAVE_MARGIN_SECONDS)


def leaves_by(gang: Gang, member: Member) -> datetime | None:
    """When a leaving member will be gone: what Kubernetes says, and no later than what was agreed at its start."""
    pod, told = member.pod, None if member.session is None else member.session.leaving_until
    known = [until for until in (None if pod is None else pod.ends_at, told) if until is not None]
    if told is not None and pod is not None and not pod.is_deleting:
        grace = timedelta(seconds=gang.spec.grace_seconds)
        known.append(told - grace + timedelta(seconds=UNANNOUNCED_SECONDS))
    return min(known, default=None)


def _is_stalled(gang: Gang, member: Member, formation: int) -> bool:
    """A connected node rank 0 that trains and reports no step. What went before the phase, such as an evaluation, is no stall."""
    run, session = member.run, member.session
    if session is None or run is None or run.progress is None or not session.is_connected or member is not gang.crew[0]:
        return False
    progress = run.progress
    if run.phase is not MemberPhase.TRAINING or progress.formation != formation or run.progressed_at is None:
        return False
    if progress.step >= progress.total_steps:
        return False
    limit = max(STALL_STEPS * progress.step_seconds, STALL_SECONDS)
    return gang.now - max(run.progressed_at, run.phase_at) >= timedelta(seconds=limit)


def _culprit(gang: Gang, member: Member, report: FailureReport) -> Member:
    """All ranks meet a value that is not finite, and say which of them made it."""
    if report.failure_class is not FailureClass.NOT_FINITE or report.rank is None:
        return member
    node_rank = report.rank // gang.spec.processes_per_node
    return gang.crew[node_rank] if node_rank < len(gang.crew) else member


def _reported(member: Member, report: FailureReport) -> Trouble:
    if report.failure_class is FailureClass.DISRUPTED:
        return _disrupted(member, report.message)
    message = _placed(member, report)
    return Trouble(failure_class=report.failure_class, kind=kind_of(report), message=message, member=member.name, why=message)


def _placed(member: Member, report: FailureReport) -> str:
    if report.failure_class is FailureClass.USER_ERROR:
        return report.message  # which rank met the user's error first says nothing about it
    if report.rank is None:
        return f"{member.name}: {report.message}"
    rank = f"rank {report.rank}"
    rest = report.message.removeprefix(f"{rank} ")
    return f"{rank} on {member.name}{':' if rest == report.message else ''} {rest}"


def _disrupted(member: Member, why: str) -> Trouble:
    message = f"{member.name} was lost: {why}"
    return Trouble(failure_class=FailureClass.DISRUPTED, kind=FailureKind.LOSS, message=message, member=member.name, why=why)


def told_to_end(member: Member) -> Trouble:
    return _disrupted(member, "it was told to end")


def _stalled(gang: Gang, member: Member) -> Trouble:
    run = member.run
    assert run is not None
    assert run.progressed_at is not None
    assert run.progress is not None
    since = max(run.progressed_at, run.phase_at)
    seconds, usual = (gang.now - since).total_seconds(), run.progress.step_seconds
    message = f"no step was finished for {seconds:.0f} s after step {run.progress.step} (a step usually takes {usual:.1f} s)"
    return Trouble(failure_class=FailureClass.HANG, kind=FailureKind.STALL, message=message, member=member.name, why=message)
