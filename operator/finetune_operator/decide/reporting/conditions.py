"""Conditions as kstatus and people read them, derived from the phase. Complete, Failed and Finished exist only when True."""

from typing import Literal

from finetune_operator.api.status import Condition
from finetune_operator.decide.answers.answer import Answer, Phase
from finetune_operator.decide.facts.gang import Gang
from finetune_operator.decide.facts.kueue import CAPTURED_BY_KUEUE

RUNNING = frozenset({Phase.TRAINING, Phase.EVALUATING, Phase.EXPORTING})
NOT_ADMITTED = frozenset({Phase.PENDING, Phase.QUEUED, Phase.SUSPENDING, Phase.SUSPENDED})
ENDED = frozenset({Phase.COMPLETE, Phase.FAILED})
State = Literal["True", "False", "Unknown"]


def conditions(gang: Gang, answer: Answer) -> tuple[Condition, ...]:
    """`last_transition_time` moves when a status flips, and only then."""
    if answer.phase in ENDED and answer.verdict is None:
        return gang.status.conditions
    before = {condition.type: condition for condition in gang.status.conditions}
    told = []
    for kind, state, reason, message in _wanted(gang, answer):
        old = before.get(kind)
        since = old.last_transition_time if old is not None and old.status == state else gang.now
        told.append(
            Condition(
                type=kind,
                status=state,
                reason=reason,
                message=message[:2048],
                observed_generation=gang.job.metadata.generation,
                last_transition_time=since,
            )
        )
    return tuple(told)


def _wanted(gang: Gang, answer: Answer) -> list[tuple[str, State, str, str]]:
    phase, reason, message = answer.phase, answer.reason, answer.message
    is_running, is_recovering, has_failed = phase in RUNNING, phase is Phase.RECOVERING, phase is Phase.FAILED
    is_reconciling = phase is Phase.PENDING or (phase is Phase.PREPARING and not gang.observed.pods)
    wanted: list[tuple[str, State, str, str]] = [
        ("Reconciling", _state(is_reconciling), "Creating" if is_reconciling else "Created", message if is_reconciling else ""),
        ("Stalled", *_stalled(answer)),
        ("Admitted", *_admitted(gang, answer)),
        ("Running", _state(is_running), reason, message),
        ("Recovering", _state(is_recovering), reason if is_recovering else "NothingToRecover", message if is_recovering else ""),
        ("Checkpointed", *_checkpointed(gang)),
        ("Suspended", _suspended(phase), reason if phase in _SUSPENSION else "NotSuspended", message if phase in _SUSPENSION else ""),
    ]
    if not is_reconciling:
        wanted.append(("Ready", _state(not has_failed), reason, message))
    if answer.verdict is not None:
        verdict = answer.verdict
        wanted += [(verdict.kind, "True", verdict.reason, verdict.message), ("Finished", "True", verdict.kind, verdict.message)]
    return wanted


def _stalled(answer: Answer) -> tuple[State, str, str]:
    """It will not go on unless somebody changes something: it has failed, or its pods did not start the last time."""
    if answer.phase is Phase.FAILED:
        return "True", answer.reason, answer.message
    if answer.status.failed_starts.count > 0 and answer.phase in {Phase.QUEUED, Phase.PREPARING}:
        return "True", "NeverStarted", answer.message
    return "False", "GoesOn", ""


_SUSPENSION = frozenset({Phase.SUSPENDING, Phase.SUSPENDED})


def _admitted(gang: Gang, answer: Answer) -> tuple[State, str, str]:
    if answer.phase in ENDED:
        old = gang.status.condition("Admitted")
        return (old.status, old.reason, old.message) if old is not None else ("False", answer.reason, answer.message)
    if answer.phase in NOT_ADMITTED:
        return "False", answer.reason, answer.message
    if answer.phase is Phase.PREPARING and answer.reason in {"Unschedulable", CAPTURED_BY_KUEUE}:
        return "False", answer.reason, answer.message
    return "True", "Admitted", "the members of the job may be placed"


def _checkpointed(gang: Gang) -> tuple[State, str, str]:
    """As node rank 0 found the store, for it saves and restores. A member that did not try yet takes nothing back."""
    run = gang.crew[0].run if gang.crew else None
    storage = None if run is None else run.storage
    if storage is not None and storage.problem is not None:
        return "False", storage.problem.reason, storage.problem.message
    old = gang.status.condition("Checkpointed")
    if storage is None and old is not None and old.status == "False":
        return old.status, old.reason, old.message
    if gang.status.last_commit is None and all(session.run.commit is None for session in gang.observed.sessions):
        return "Unknown", "NoCommitYet", "no step is committed yet"
    return "True", "Committed", "see status.lastCommit for the newest commit"


def _suspended(phase: Phase) -> State:
    if phase is Phase.SUSPENDING:
        return "Unknown"
    return _state(phase is Phase.SUSPENDED)


def _state(is_true: bool) -> State:
    return "True" if is_true else "False"
