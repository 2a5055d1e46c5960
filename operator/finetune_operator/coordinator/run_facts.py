"""What one member said of the run that it works in, message by message. Pure: the clock is an argument."""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import singledispatch

from finetune_contract.messages import Failed, Hello, MemberPhase, OfRun, PhaseChanged
from finetune_contract.reasons import STORE_AWAY
from finetune_contract.reports import Committed, Progress, StorageState, Warned
from finetune_contract.state import StateId, newest_state
from finetune_operator.decide.facts.observed import RunFacts
from finetune_operator.times import STORE_AWAY_SILENCE_SECONDS

_MAX_WARNINGS = 10


def facts_of(hello: Hello, before: RunFacts | None, now: datetime) -> RunFacts:
    """The facts that a `hello` brings; what the hello does not say is kept from `before`."""
    is_known_commit = before is not None and before.commit is not None and before.commit == hello.commit
    fresh = RunFacts(
        uid=hello.job_uid,
        phase=hello.phase,
        formation=hello.formation,
        phase_at=now,
        snapshot=hello.snapshot,
        commit=hello.commit,
        commit_key=before.commit_key if before and is_known_commit else None,
        commit_num_bytes=before.commit_num_bytes if before and is_known_commit else None,
        inputs=hello.inputs,
        progress=hello.progress,
        progressed_at=now if hello.progress else None,
        failure=hello.failure,
        failed_formation=hello.failed_formation,
        output=hello.output,
        resumed_step=None,
        first_step_seconds=None,
        storage=hello.storage,
    )
    if before is None:
        return fresh
    is_same_progress = before.progress is not None and hello.progress is not None and not _is_ahead(hello.progress, before.progress)
    return replace(
        fresh,
        progress=before.progress if is_same_progress else hello.progress,
        progressed_at=before.progressed_at if is_same_progress else fresh.progressed_at,
        resumed_step=before.resumed_step if hello.formation == before.formation else None,
        first_step_seconds=before.first_step_seconds if hello.formation == before.formation else None,
        phase_at=before.phase_at if (hello.formation, hello.phase) == (before.formation, before.phase) else now,
        warnings=before.warnings,
        store_away_since=before.store_away_since,
        store_away_at=before.store_away_at,
    )


@singledispatch
def hear_of_run(message: OfRun, run: RunFacts, now: datetime) -> RunFacts:
    """The facts after one more message."""
    raise AssertionError(f"nothing is known of a {type(message).__name__}")


@hear_of_run.register
def _(message: PhaseChanged, run: RunFacts, now: datetime) -> RunFacts:
    is_next_formation = message.formation > run.formation
    is_same_phase = not is_next_formation and message.phase is run.phase
    return replace(
        _with_commit(run, message.commit),
        phase=message.phase,
        formation=max(message.formation, run.formation),
        inputs=message.inputs or run.inputs,
        snapshot=newest_state(run.snapshot, message.snapshot),
        output=message.output or run.output,
        rows_done=message.rows_done,
        rows_total=message.rows_total,
        phase_at=run.phase_at if is_same_phase else now,
        resumed_step=message.resumed_step if is_next_formation or message.resumed_step is not None else run.resumed_step,
        first_step_seconds=message.first_step_seconds if is_next_formation else message.first_step_seconds or run.first_step_seconds,
    )


@hear_of_run.register
def _(message: Progress, run: RunFacts, now: datetime) -> RunFacts:
    if run.progress is None or _is_ahead(message, run.progress):
        return replace(run, progress=message, progressed_at=now)
    if _is_ahead(run.progress, message):
        return run
    return replace(run, progress=message)  # the same step, now with its evaluation: no step was made


@hear_of_run.register
def _(message: Committed, run: RunFacts, now: datetime) -> RunFacts:
    if newest_state(run.commit, message.state) != message.state:
        return run
    return replace(run, commit=message.state, commit_key=message.key, commit_num_bytes=message.num_bytes)


@hear_of_run.register
def _(message: Failed, run: RunFacts, now: datetime) -> RunFacts:
    snapshot = newest_state(run.snapshot, message.snapshot)
    return replace(run, failure=message.report, failed_formation=message.formation, snapshot=snapshot)


@hear_of_run.register
def _(message: Warned, run: RunFacts, now: datetime) -> RunFacts:
    if message.reason == STORE_AWAY and run.phase is MemberPhase.PREPARING:
        is_still_away = run.store_away_at is not None and now - run.store_away_at < timedelta(seconds=STORE_AWAY_SILENCE_SECONDS)
        run = replace(run, store_away_at=now, store_away_since=run.store_away_since if is_still_away else now)
    warning = (message.reason, message.message)
    if warning in run.warnings:
        return run
    return replace(run, warnings=(*run.warnings, warning)[-_MAX_WARNINGS:])


@hear_of_run.register
def _(message: StorageState, run: RunFacts, now: datetime) -> RunFacts:
    return replace(run, storage=message)


def _with_commit(run: RunFacts, commit: StateId | None) -> RunFacts:
    if commit is None or newest_state(run.commit, commit) == run.commit:
        return run
    return replace(run, commit=commit, commit_key=None, commit_num_bytes=None)


def _is_ahead(progress: Progress, of: Progress) -> bool:
    return (progress.formation, progress.step) > (of.formation, of.step)
