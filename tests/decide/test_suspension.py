"""A suspended job saves, then frees its members."""

import pytest
from tests.builders.observed import a_job, a_pod, a_session, ago, observed, training_status

from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Commit, Stop
from finetune_contract.state import StateId
from finetune_operator.api.status import CommitEntry, Condition, JobStatus, Placement
from finetune_operator.decide.chain import decide

COMMITTED = {"phase": MemberPhase.STOPPED, "commit": StateId(formation=1, step=10)}
STOPPED = {"phase": MemberPhase.STOPPED}


def saving(since: float) -> JobStatus:
    told = Condition(
        type="Suspended", status="Unknown", reason="Saving", message="", observed_generation=1, last_transition_time=ago(since)
    )
    return training_status(phase="Suspending", conditions=(told,))


def suspended(*, first=None, second=None, status=None, **changes):
    sessions = (a_session(1, **(first or {})), a_session(2, **(second or {})))
    return observed(job=a_job(status=status or training_status(), suspend=True), **({"sessions": sessions} | changes))


@pytest.mark.parametrize(
    ("seen", "reason", "num_deleted"),
    [
        (suspended(), "Saving", 0),
        (suspended(first=STOPPED, second=STOPPED), "Saving", 0),
        (suspended(first=COMMITTED, second=STOPPED), "Freeing", 2),
        (suspended(status=saving(59)), "Saving", 0),
        (suspended(status=saving(60)), "Freeing", 2),
        (suspended(first=STOPPED | {"snapshot": None, "progress": None}, second=STOPPED | {"snapshot": None}), "Freeing", 2),
        (suspended(sessions=(), is_reconnect_over=False), "Saving", 0),
        (suspended(sessions=()), "Freeing", 2),
        (suspended(status=JobStatus(), pods=(), sessions=()), "Suspended", 0),
    ],
    ids=[
        "trains",
        "stopped, not saved",
        "saved",
        "has time to save",
        "its time is over",
        "nothing to save",
        "has not reconnected yet",
        "nobody is there",
        "was never placed",
    ],
)
def test_members_are_freed_when_the_state_is_saved(seen, reason, num_deleted) -> None:
    decision = decide(seen)
    assert decision.status.columns.reason == reason
    assert len(decision.delete) == num_deleted
    assert bool(decision.status.members) == (reason == "Saving")


def test_node_rank_0_saves_as_it_stops() -> None:
    decision = decide(suspended())
    stops = {order.member_uid: order.order.save for order in decision.orders if isinstance(order.order, Stop)}
    assert stops == {"pod-1": True, "pod-2": False}
    assert decision.status.formation.is_over


def test_another_holder_commits_when_node_rank_0_is_lost() -> None:
    decision = decide(suspended(pods=(a_pod(2),), first={"is_connected": False}, second=STOPPED))
    assert [(order.member_uid, type(order.order)) for order in decision.orders] == [("pod-2", Commit)]


def test_a_suspended_job_says_from_where_it_will_go_on() -> None:
    commit = CommitEntry(formation=1, step=10, key="k", num_bytes=1, at=ago(1))
    decision = decide(suspended(status=JobStatus(last_commit=commit), pods=(), sessions=()))
    assert [event.message for event in decision.events] == ["no pods are kept; spec.suspend: false goes on from step 10"]
    again = decide(suspended(status=decision.status, pods=(), sessions=()))
    assert again.status == decision.status
    assert again.events == ()


def test_a_resumed_job_does_not_wait_for_the_back_off_from_before() -> None:
    backs_off = JobStatus(placement=Placement(backoff_until=ago(-600), attempts=9, why="no room"))
    freed = decide(suspended(status=backs_off, pods=(), sessions=())).status
    assert decide(observed(job=a_job(status=freed), pods=(), sessions=())).create == (1, 2)


def test_a_resumed_job_goes_on_as_a_new_gang_and_counts_no_restart() -> None:
    freed = decide(suspended(first=COMMITTED, second=STOPPED)).status
    decision = decide(observed(job=a_job(status=freed), pods=(), sessions=()))
    assert decision.create == (3, 4)
    assert decision.status.restarts.total == 0
    assert decision.status.last_formation == 1
