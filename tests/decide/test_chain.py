"""The job chain: whose opinion comes first, and how jobs end."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders.observed import (
    INPUTS,
    NOW,
    a_formation,
    a_fresh_session,
    a_job,
    a_pending_pod,
    a_pod,
    a_recovery,
    a_session,
    ago,
    observed,
    over_status,
    training_status,
)

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.last_words import Finished
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Exit
from finetune_contract.reports import Output
from finetune_operator.api.status import Condition, JobStatus, Restarts
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase

OUTPUT = Output(uri="s3://out/adapter", sha256="a" * 64, num_bytes=1000, step=100)
BAD_ROW = FailureReport(failure_class=FailureClass.USER_ERROR, message="rows.jsonl:7: wanted messages, got prompt")


def a_condition(kind: str, **changes) -> Condition:
    told = Condition(type=kind, status="True", reason="Why", message="what", observed_generation=1, last_transition_time=ago(10))
    return told.model_copy(update=changes)


def ended_status(kind="Failed", since=10, **changes) -> JobStatus:
    told = {"phase": kind, "conditions": (a_condition(kind),), "completion_time": ago(since), "members": ()}
    return training_status(**(told | changes))


def a_deleted_job(**changes):
    job = a_job(**changes)
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"deletion_timestamp": NOW})})


def members(*, first=None, second=None, **changes):
    """Two members that train, of which somebody said something."""
    sessions = (a_session(1, **(first or {})), a_session(2, **(second or {})))
    return observed(sessions=sessions, **changes)


WORDS = Finished(formation=1, output=OUTPUT)
FINISHED = {"phase": MemberPhase.FINISHED, "output": OUTPUT}
MET_A_BAD_ROW = {"phase": MemberPhase.FAILED, "failure": BAD_ROW, "failed_formation": 1}
SUSPENDED = a_job(status=training_status(), suspend=True)


@pytest.mark.parametrize(
    ("seen", "phase"),
    [
        (members(job=a_job(status=ended_status())), "Failed"),
        (members(job=a_job(status=ended_status()), first=FINISHED), "Failed"),
        (members(job=SUSPENDED, first=FINISHED), "Complete"),
        (members(first=FINISHED, second=MET_A_BAD_ROW), "Complete"),
        (members(job=SUSPENDED, first=MET_A_BAD_ROW), "Failed"),
        (members(job=SUSPENDED), "Suspending"),
        (members(job=a_job(suspend=True), first={}), "Suspending"),
        (members(), "Training"),
    ],
    ids=[
        "ended stays ended",
        "ended before finished",
        "finished before suspended",
        "finished before failed",
        "failed before suspended",
        "suspended before running",
        "suspended before admitted",
        "running",
    ],
)
def test_the_first_opinion_wins(seen, phase) -> None:
    assert decide(seen).status.phase == phase


@pytest.mark.parametrize("job", [None, a_deleted_job(), a_deleted_job(suspend=True)], ids=["gone", "going", "going and suspended"])
def test_a_deleted_job_only_loses_its_pods(job) -> None:
    decision = decide(replace(observed(pods=(a_pod(1), a_pod(2, is_deleting=True))), job=job))
    assert [doomed.uid for doomed in decision.delete] == ["pod-1"]
    assert (decision.orders, decision.events, decision.create) == ((), (), ())
    assert decision.status == (JobStatus() if job is None else job.status)


def test_a_finished_job_says_what_it_published() -> None:
    decision = decide(members(first=FINISHED))
    output = decision.status.output
    assert output is not None
    assert (output.uri, output.num_bytes, output.base_model, output.rank) == ("s3://out/adapter", 1000, "hf://org/model", 16)
    assert decision.status.completion_time == NOW
    assert decision.status.is_true("Complete")
    assert decision.status.is_true("Finished")
    assert [type(order.order) for order in decision.orders] == [Exit, Exit]
    assert [event.message for event in decision.events] == ["the adapter was published after step 100: s3://out/adapter"]


@pytest.mark.parametrize(
    "seen",
    [
        observed(sessions=(), pods=(a_pod(1, phase=PodPhase.SUCCEEDED, exit_code=0, finished=WORDS), a_pod(2))),
        observed(sessions=(), pods=(a_pod(1, phase=PodPhase.SUCCEEDED, exit_code=0, finished=WORDS),), is_reconnect_over=False),
    ],
    ids=["from last words", "also in the reconnect window"],
)
def test_a_gang_that_finished_alone_is_believed(seen) -> None:
    assert decide(seen).status.is_true("Complete")


def test_an_adapter_that_was_there_completes_the_job() -> None:
    skipped = OUTPUT.model_copy(update={"already_present": True})
    job = a_job(status=training_status(), output={"uri": OUTPUT.uri, "if_exists": "Skip"})
    decision = decide(members(job=job, first={"output": skipped}))
    assert [event.message for event in decision.events] == ["the adapter was there already: s3://out/adapter"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": MET_A_BAD_ROW}, BAD_ROW.message),
        ({"second": {"phase": MemberPhase.FAILED, "inputs": None, "failure": BAD_ROW}}, BAD_ROW.message),
        (
            {"second": {"inputs": INPUTS.model_copy(update={"dataset": "x" * 64})}},
            "spec.dataset.uri: bot-ab12-2 found other bytes at s3://data/rows.jsonl than the members before it; "
            "put the old bytes back, or make a new job from the new ones",
        ),
        (
            {"second": {"inputs": INPUTS.model_copy(update={"model_revision": "b1"})}},
            "spec.model.uri: bot-ab12-2 found other bytes at hf://org/model than the members before it; "
            "put the old bytes back, or make a new job from the new ones",
        ),
    ],
    ids=["in training", "while preparing", "other rows", "another model"],
)
def test_an_error_of_the_user_fails_the_job_at_once_in_their_words(changes, message) -> None:
    decision = decide(members(**changes))
    failed = decision.status.condition("Failed")
    assert failed is not None
    assert (failed.reason, failed.message) == ("UserError", message)
    assert decision.status.members == ()
    assert decision.status.restarts.total == 0
    assert [event.reason for event in decision.events] == ["Failed"]


def test_members_that_agree_with_each_other_but_not_with_the_first_ones_never_train() -> None:
    other = {"inputs": INPUTS.model_copy(update={"dataset": "x" * 64})}
    assert decide(members(first=other, second=other)).status.is_ended


def test_the_first_members_must_agree_before_anything_is_pinned() -> None:
    status = training_status(formation=None, last_formation=0)
    status = status.model_copy(update={"pinned": status.pinned.model_copy(update={"inputs": None})})
    other = a_fresh_session(2, inputs=INPUTS.model_copy(update={"dataset": "x" * 64}))
    decision = decide(observed(job=a_job(status=status), sessions=(a_fresh_session(1), other)))
    assert decision.status.is_true("Failed")


@pytest.mark.parametrize(
    "changes",
    [{"first": MET_A_BAD_ROW}, {"second": {"phase": MemberPhase.FAILED, "inputs": None, "failure": BAD_ROW}}],
    ids=["in training", "while preparing"],
)
def test_nothing_fails_inside_the_reconnect_window(changes) -> None:
    assert decide(members(**changes)).status.is_ended
    assert not decide(members(is_reconnect_over=False, **changes)).status.is_ended


@pytest.mark.parametrize(("since", "is_failed"), [(0.5, False), (1, True)], ids=["a moment ago", "nothing better came"])
def test_the_last_crash_of_the_budget_waits_a_moment_for_a_better_explanation(since, is_failed) -> None:
    lost_its_peer = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="peer lost: connection reset", rank=0)
    record = a_recovery(failure_class="Infrastructure", reason="peer lost")
    entry = a_formation(furthest_step=10, is_over=True, over_at=ago(since))
    status = over_status(formation=entry, recoveries=(record,), restarts=Restarts(crashes=2, crashes_without_progress=2))
    first = {"phase": MemberPhase.FAILED, "failure": lost_its_peer, "failed_formation": 1}
    assert decide(members(job=a_job(status=status), first=first)).status.is_ended == is_failed


def test_a_spec_that_slipped_past_the_webhook_fails_before_anything_is_placed() -> None:
    seen = observed(job=a_job(), pods=(), sessions=(), spec_errors=("spec.model.uri: got x, wanted hf://",))
    decision = decide(seen)
    assert decision.status.columns.reason == "InvalidSpec"
    assert decision.create == ()


def test_a_newer_operators_rules_do_not_fail_an_admitted_job() -> None:
    assert not decide(members(spec_errors=("spec.model.uri: is unlucky",))).status.is_ended


@pytest.mark.parametrize(
    ("pods", "since", "ttl", "deleted"),
    [
        ((a_pod(1),), 10, None, []),
        ((a_pod(1),), 30, None, ["pod-1"]),
        ((a_pending_pod(3),), 0, None, ["pod-3"]),
        ((a_pod(1, phase=PodPhase.FAILED),), 9999, None, []),
        ((a_pod(1, phase=PodPhase.FAILED),), 59, 60, []),
        ((a_pod(1, phase=PodPhase.FAILED),), 60, 60, ["pod-1"]),
        ((a_pod(1, is_deleting=True),), 60, 60, []),
    ],
    ids=["time to exit", "exit is over", "never needed", "logs stay", "before the TTL", "at the TTL", "already going"],
)
def test_members_of_an_ended_job_exit_and_ended_pods_stay_until_the_ttl(pods, since, ttl, deleted) -> None:
    job = a_job(status=ended_status(since=since), ttl_seconds_after_finished=ttl)
    decision = decide(observed(job=job, pods=pods, sessions=()))
    assert [doomed.uid for doomed in decision.delete] == deleted


def test_an_ended_job_is_looked_at_again_when_its_ttl_is_over() -> None:
    job = a_job(status=ended_status(since=10), ttl_seconds_after_finished=60)
    seen = observed(job=job, pods=(a_pod(1, phase=PodPhase.SUCCEEDED),), sessions=())
    assert decide(seen).look_again_seconds == 50
    later = replace(seen, now=NOW + timedelta(seconds=50))
    assert [doomed.uid for doomed in decide(later).delete] == ["pod-1"]


def test_an_ended_job_keeps_its_conditions_and_writes_nothing_again() -> None:
    first = decide(members(first=FINISHED)).status
    again = decide(members(job=a_job(status=first), first=FINISHED))
    assert again.status == first
    assert again.events == ()


def test_an_error_of_the_user_stands_after_its_formation_is_over() -> None:
    record = a_recovery(failure_class="UserError", reason=BAD_ROW.message)
    decision = decide(members(job=a_job(status=over_status(recoveries=(record,)))))
    assert [event.message for event in decision.events] == [f"UserError: {BAD_ROW.message}"]
