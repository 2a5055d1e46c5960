"""One pass as a pure function: the job chain, whose first opinion wins, then members and formation, then the report."""

from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.answer import delete_pod
from finetune_operator.decide.answers.decision import Decision
from finetune_operator.decide.deadlines import fail_a_job_past_its_deadline, give_back_a_gang_that_never_starts
from finetune_operator.decide.endings import (
    complete_a_finished_job,
    end_an_unretryable_failure,
    fail_a_job_whose_pod_is_invalid,
    fail_an_invalid_job,
    keep_an_ended_job_ended,
)
from finetune_operator.decide.facts.gang import look
from finetune_operator.decide.facts.observed import Observed
from finetune_operator.decide.facts.policy import NATIVE, PlacementPolicy
from finetune_operator.decide.placing.admission import (
    give_back_a_gang_that_cannot_be_whole_again,
    give_back_an_incomplete_gang,
    wait_for_a_turn,
)
from finetune_operator.decide.placing.suspension import suspend_a_suspended_job
from finetune_operator.decide.recovering.diagnosis import diagnose
from finetune_operator.decide.reporting.report import report
from finetune_operator.decide.running import run

JOB_CHAIN = (
    keep_an_ended_job_ended,
    complete_a_finished_job,
    fail_an_invalid_job,
    fail_a_job_whose_pod_is_invalid,
    end_an_unretryable_failure,
    suspend_a_suspended_job,
    fail_a_job_past_its_deadline,
    give_back_a_gang_that_never_starts,
    give_back_an_incomplete_gang,
    give_back_a_gang_that_cannot_be_whole_again,
    wait_for_a_turn,
)


def decide(observed: Observed, policy: PlacementPolicy = NATIVE) -> Decision:
    """What to do about this job now."""
    job = observed.job
    if job is None or job.metadata.deletion_timestamp is not None:
        return forget_a_deleted_job(observed)
    gang = look(observed, job, policy)
    diagnosis = diagnose(gang)
    for rule in JOB_CHAIN:
        answer = rule(gang, diagnosis)
        if answer is not None:
            return report(gang, answer)
    return report(gang, run(gang, diagnosis))


def forget_a_deleted_job(observed: Observed) -> Decision:
    """Its pods go; Kubernetes collects them too, a local run has only us."""
    live = (pod for pod in observed.pods if not pod.is_deleting)
    status = JobStatus() if observed.job is None else observed.job.status
    return Decision(status=status, delete=tuple(delete_pod(pod) for pod in live))
