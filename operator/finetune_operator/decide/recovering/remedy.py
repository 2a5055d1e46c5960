"""What is done about a trouble: the next formation as it is, with less memory, or the end of the job with advice."""

from dataclasses import dataclass, replace

from finetune_contract.failures import FailureClass
from finetune_contract.plurals import counted
from finetune_contract.values import changed
from finetune_operator.api.status import PinnedOverrides, Restarts
from finetune_operator.decide.facts.gang import Gang
from finetune_operator.decide.recovering.trouble import Trouble


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """`hopeless` says in the user's words why there is no next formation."""

    overrides: PinnedOverrides
    restarts: Restarts
    hopeless: str | None = None


def remedy_for(gang: Gang, trouble: Trouble) -> Remedy:
    """Overrides and counters of the next formation after this trouble."""
    overrides = gang.status.pinned.overrides if gang.status.pinned is not None else PinnedOverrides()
    restarts = count(gang, trouble)
    if trouble.failure_class is FailureClass.DISRUPTED:
        return Remedy(overrides=overrides, restarts=restarts)
    if trouble.failure_class is FailureClass.USER_ERROR:
        return Remedy(overrides=overrides, restarts=restarts, hopeless=trouble.message)
    if trouble.failure_class is FailureClass.OUT_OF_MEMORY:
        return _with_less_memory(gang, trouble, overrides, restarts)
    if trouble.failure_class is FailureClass.NOT_FINITE and _was_not_finite_before(gang):
        advice = "a replay from the last good step was not finite either; lower training.learningRate, or check the rows of this step"
        return Remedy(overrides=overrides, restarts=restarts, hopeless=f"{trouble.message}; {advice}")
    return Remedy(overrides=overrides, restarts=restarts, hopeless=_hopeless(gang, trouble, restarts))


def remedy_outside(gang: Gang, trouble: Trouble) -> Remedy:
    """After a crash that no formation counts: what a formation achieved before says nothing about this member."""
    remedy = remedy_for(gang, trouble)
    if trouble.failure_class in {FailureClass.USER_ERROR, FailureClass.DISRUPTED}:
        return remedy
    restarts = count_outside(gang.status.restarts)
    return replace(remedy, restarts=restarts, hopeless=_hopeless(gang, trouble, restarts))


def count_outside(before: Restarts) -> Restarts:
    """Counters after a member that crashed before it took part."""
    return changed(before, crashes=before.crashes + 1, crashes_without_progress=before.crashes_without_progress + 1)


def count(gang: Gang, trouble: Trouble) -> Restarts:
    """Counters after a formation that ended by this trouble."""
    before = gang.status.restarts
    if trouble.failure_class is FailureClass.USER_ERROR:
        return before  # ends the job: nothing starts again
    if trouble.failure_class is FailureClass.DISRUPTED:
        return changed(before, disruptions=before.disruptions + 1)
    without = 0 if made_progress(gang) else before.crashes_without_progress + 1
    return changed(before, crashes=before.crashes + 1, crashes_without_progress=without)


def made_progress(gang: Gang) -> bool:
    """The newest formation finished a step that none before it had finished."""
    entry = gang.status.formation
    return entry is not None and gang.reached_step > max(entry.furthest_step, entry.resumed_step or 0)


def _hopeless(gang: Gang, trouble: Trouble, restarts: Restarts) -> str | None:
    limit = gang.spec.max_crashes_without_progress
    if restarts.crashes_without_progress < limit:
        return None
    crashes = counted(limit, "crash", "crashes")
    return f"{crashes} without a new finished step (restartPolicy.maxCrashesWithoutProgress); the last crash: {trouble.message}"


def _with_less_memory(gang: Gang, trouble: Trouble, overrides: PinnedOverrides, restarts: Restarts) -> Remedy:
    """First recompute activations (does not change results), then half the micro-batch once."""
    run = gang.spec.run
    if not (run.has_gradient_checkpointing or overrides.gradient_checkpointing):
        return Remedy(overrides=changed(overrides, gradient_checkpointing=True), restarts=restarts)
    if overrides.pack_tokens is None and run.max_sequence_length >= 2:
        halved = run.max_sequence_length // 2
        return Remedy(overrides=changed(overrides, pack_tokens=halved), restarts=restarts)
    advice = "less memory per step did not help: lower training.maxSequenceLength or adapter.rank, or raise resources.limits"
    return Remedy(overrides=overrides, restarts=restarts, hopeless=f"{trouble.message}; {advice}")


def _was_not_finite_before(gang: Gang) -> bool:
    entry = gang.status.formation
    if entry is None or made_progress(gang):
        return False
    return any(
        recovery.formation == entry.number - 1 and recovery.failure_class == FailureClass.NOT_FINITE for recovery in gang.status.recoveries
    )
