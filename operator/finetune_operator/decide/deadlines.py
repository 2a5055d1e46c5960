"""Nothing waits for ever: a gang that never starts gives its nodes back, and a job may have a deadline. Rules of the job chain."""

from dataclasses import replace

from finetune_contract.plurals import counted, verb
from finetune_contract.values import changed
from finetune_operator.api.status import MemberFailures
from finetune_operator.decide.answers.answer import Answer
from finetune_operator.decide.endings import fail
from finetune_operator.decide.facts.gang import Gang
from finetune_operator.decide.placing.admission import give_back
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.decide.recovering.starting import never_started, waits_for_a_store, why_not_started
from finetune_operator.decide.reporting.goodput import advance
from finetune_operator.times import MAX_FAILED_STARTS, SECONDS_A_SILENT_END, TURN_SECONDS


def fail_a_job_past_its_deadline(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """Counted is the time with pods, or with pods on their way; time in the queue and suspended time is not the job's."""
    limit = gang.spec.active_deadline_seconds
    if limit is None or gang.status.pinned is None:
        return None
    spent = advance(gang.status, gang.status, gang.now)
    if sum(spent.model_dump().values()) - spent.waiting_seconds < limit:
        return None
    last = gang.status.last_commit
    state = "no step is committed" if last is None else f"the newest commit holds step {last.step}"
    return fail(gang, reason="DeadlineExceeded", message=f"spec.activeDeadlineSeconds: the job was active for {limit} s; {state}")


def give_back_a_gang_that_never_starts(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """Its nodes go to others, with the reason in words; the third time in a row ends the job. An elastic gang goes on without."""
    if gang.active is not None or not gang.observed.is_reconnect_over:
        return None
    stuck = tuple(member for member in gang.members if never_started(gang, member) or waits_for_a_store(gang, member))
    silent = gang.status.silent_members.count
    if stuck and len(gang.members) - len(stuck) < gang.spec.min_nodes:
        why = f"{stuck[0].name}: {why_not_started(gang, stuck[0])}"
        why += f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
    elif silent * SECONDS_A_SILENT_END >= gang.spec.start_timeout_seconds:
        in_a_row = " in a row" if silent > 1 else ""
        why = f"{counted(silent, 'member')}{in_a_row} ended before connecting to the operator; see {verb(silent, 'its log', 'their logs')}"
    else:
        return None
    count = gang.status.failed_starts.count + 1
    if count >= MAX_FAILED_STARTS:
        return fail(gang, reason="NeverStarted", message=f"{why}; this happened {counted(count, 'time')} in a row")
    least = gang.spec.grace_seconds + TURN_SECONDS  # its pods have gone, and another gang had a turn
    answer = give_back(gang, reason="NeverStarted", why=why, backs_off=True, least_seconds=least)
    status = changed(answer.status, failed_starts=MemberFailures(count=count, last_at=gang.now), silent_members=MemberFailures())
    return replace(answer, status=status)
