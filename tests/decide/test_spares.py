"""Warm spares: when they are created, when they are given back, and whose place they take."""

from dataclasses import replace

import pytest
from tests.builders.observed import (
    INPUTS,
    NOW,
    a_formation,
    a_fresh_session,
    a_job,
    a_line_entry,
    a_pending_pod,
    a_pod,
    a_session,
    ago,
    changed_session,
    observed,
    over_status,
    placing_status,
    training_status,
    uid_of,
)

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Exit, Start, Stop
from finetune_operator.api.status import MemberEntry, MemberFailures, Placement, Recovery, Restarts
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.line import line_entry
from finetune_operator.decide.facts.observed import PodPhase

OTHER = a_line_entry("other")
PREPARING = a_fresh_session(3, phase=MemberPhase.PREPARING, inputs=None)
PREPARING_2 = a_fresh_session(2, phase=MemberPhase.PREPARING, inputs=None)
NO_MODEL = FailureReport(failure_class=FailureClass.USER_ERROR, message="403 from the hub")
OTHER_BYTES = INPUTS.model_copy(update={"model": "x" * 64})


def listed(*places: int, spares: tuple[int, ...] = (), unseen: tuple[int, ...] = ()) -> tuple[MemberEntry, ...]:
    entry = {serial: MemberEntry(serial=serial, uid=None if serial in unseen else uid_of(serial)) for serial in (*places, *spares)}
    return (*(entry[serial] for serial in places), *(entry[serial].model_copy(update={"is_spare": True}) for serial in spares))


def with_spare(*, pods=(1, 2, 3), sessions=(1, 2, 3), status=None, nodes=(2, 2), unseen=(), **changes):
    """Members 1 and 2 train, 3 is a ready spare. A number stands for a healthy pod or session."""
    known = (status or training_status()).model_copy(update={"members": listed(1, 2, spares=(3,), unseen=unseen), "last_serial": 3})
    said = [session if not isinstance(session, int) else (a_session, a_fresh_session)[session > 2](session) for session in sessions]
    seen = [pod if not isinstance(pod, int) else a_pod(pod) for pod in pods]
    return observed(job=a_job(status=known, spares=1, nodes=nodes), pods=seen, sessions=said, **changes)


def places(decision) -> list[int]:
    return [entry.serial for entry in decision.status.places]


def spares(decision) -> list[int]:
    return [entry.serial for entry in decision.status.members if entry.is_spare]


def orders(decision, kind) -> list[str]:
    return [order.member_uid for order in decision.orders if isinstance(order.order, kind)]


@pytest.mark.parametrize(
    ("status", "pods", "changes", "created"),
    [
        (training_status(), (a_pod(1), a_pod(2)), {}, (3, 4)),
        (placing_status(), (a_pod(1), a_pending_pod(2)), {}, ()),
        (placing_status(), (a_pod(1), a_pod(2)), {}, (3, 4)),
        (training_status(), (a_pod(1), a_pending_pod(2)), {}, ()),
        (training_status(), (a_pod(1),), {}, (3,)),
        (training_status(), (a_pod(1), a_pod(2)), {"line": (OTHER,)}, ()),
        (training_status(), (a_pod(1), a_pod(2)), {"line": (a_line_entry("bot"),)}, (3, 4)),
        (training_status(), (a_pod(1), a_pod(2)), {"line": (replace(OTHER, backoff_until=ago(-9)),)}, (3, 4)),
        (training_status(), (a_pod(1), a_pod(2)), {"is_reconnect_over": False}, ()),
        (training_status(lost_spares=MemberFailures(count=3, last_at=ago(3))), (a_pod(1), a_pod(2)), {}, ()),
        (training_status(lost_spares=MemberFailures(count=3, last_at=ago(4))), (a_pod(1), a_pod(2)), {}, (3, 4)),
    ],
    ids=[
        "the gang is whole",
        "the gang is being placed",
        "the gang has just been placed",
        "a place has no node",
        "a member is replaced first",
        "another gang waits",
        "this gang alone stands in the line",
        "another gang backs off",
        "inside the reconnect window",
        "backs off",
        "backed off",
    ],
)
def test_spares_are_created_beside_a_whole_gang_while_nobody_waits(status, pods, changes, created) -> None:
    decision = decide(observed(job=a_job(status=status, spares=2), pods=pods, **changes))
    assert decision.create == created
    assert not spares(decision) or spares(decision) == [3, 4]


def test_an_elastic_gang_that_is_not_full_has_no_spare() -> None:
    seen = observed(job=a_job(status=training_status(), nodes=(1, 2), spares=1), pods=(a_pod(1), a_pending_pod(2)))
    assert spares(decide(seen)) == [], "a spare that found room would be a member"


def test_a_gang_that_exports_gets_no_spare() -> None:
    sessions = (a_session(1, phase=MemberPhase.EXPORTING), a_session(2))
    assert decide(observed(job=a_job(status=training_status(), spares=1), sessions=sessions)).create == ()


def test_a_ready_spare_changes_nothing() -> None:
    decision = decide(with_spare())
    assert (decision.create, decision.delete, decision.orders, decision.events) == ((), (), (), ())
    assert decision.status.formation == a_formation()
    assert (decision.status.columns.nodes, decision.status.ready_members, decision.status.ready_spares) == ("2/2", 2, 1)


@pytest.mark.parametrize(
    ("pods", "sessions", "formation", "left"),
    [
        ((1, 3), (1, a_session(2, is_connected=False), 3), (1, 3), []),
        ((1, a_pod(2, phase=PodPhase.FAILED, exit_code=1), 3), (1, a_session(2, is_connected=False), 3), (1, 3), []),
        ((1, a_pod(2, is_deleting=True), 3), (1, a_session(2, leaving_until=ago(-30)), 3), (1, 3), []),
        ((1, a_pod(2, disruption="Preempted"), 3), (1, 2, 3), (1, 3), []),
        ((2, 3), (a_session(1, is_connected=False), 2, 3), (2, 3), []),
        ((1, 3), (1, PREPARING), None, [3]),
        ((1, a_pod(3, is_deleting=True)), (1, a_fresh_session(3, leaving_until=ago(-9))), None, []),
        ((1, 3), (1, a_fresh_session(3, is_connected=False)), None, [3]),
        ((1, 3), (1, a_fresh_session(3, inputs=OTHER_BYTES)), None, []),
        ((1, 2, 3), (1, a_session(2, is_connected=False), 3), None, [3]),
    ],
    ids=[
        "a pod is gone",
        "an agent crashed",
        "a member leaves",
        "a node is drained",
        "node rank 0 is gone",
        "the spare still prepares",
        "the spare leaves too",
        "the spare has no channel",
        "the spare found other bytes",
        "a channel alone is no loss",
    ],
)
def test_the_next_formation_takes_a_ready_spare_at_once(pods, sessions, formation, left) -> None:
    decision = decide(with_spare(pods=pods, sessions=sessions))
    assert (decision.status.formation.serials if decision.status.formation.number == 2 else None) == formation
    assert spares(decision) == left
    assert orders(decision, Start) == ([] if formation is None else [uid_of(serial) for serial in formation])
    assert formation is None or decision.create == (), "the next spare would import torch beside the first step"


def test_the_handed_over_member_is_stopped_and_the_loss_is_told() -> None:
    seen = with_spare(pods=(1, a_pod(2, is_deleting=True), 3), sessions=(1, a_session(2, leaving_until=ago(-30)), 3))
    decision = decide(seen)
    assert orders(decision, Stop) == ["pod-2"]
    assert decision.status.restarts == Restarts(disruptions=1)
    told = [(event.reason, event.message) for event in decision.events]
    assert ("MemberLost", "bot-ab12-2: it was told to end; the spare bot-ab12-3 takes its place") in told


@pytest.mark.parametrize(
    ("recovery", "sessions", "created"),
    [
        ({}, (1, 2), ()),
        ({}, (1, PREPARING_2), (3,)),
        ({"total_seconds": 1.5}, (1, 2), (3,)),
    ],
    ids=["all it needs is there", "its replacement prepares for as long as a spare does", "it is over"],
)
def test_the_next_spare_comes_after_the_first_step_of_a_recovery_that_waits_for_nothing_else(recovery, sessions, created) -> None:
    told = Recovery(formation=1, failure_class="Disrupted", reason="bot-ab12-7: its pod is gone", at=ago(1), **recovery)
    formation = a_formation(number=2, first_step_at=ago(1) if recovery else None)
    status = training_status(recoveries=(told,), formation=formation, last_formation=2)
    said = [a_session(session) if isinstance(session, int) else session for session in sessions]
    assert decide(observed(job=a_job(status=status, spares=1), sessions=said)).create == created


def test_the_spare_with_the_lowest_serial_goes_first_and_no_formation_grows() -> None:
    status = training_status(members=listed(1, 2, spares=(3, 4, 5)), last_serial=5)
    job = a_job(status=status, spares=3)
    pods = tuple(a_pod(serial) for serial in (1, 3, 4, 5))
    sessions = (a_session(1), a_fresh_session(5), a_fresh_session(4), a_fresh_session(3, inputs=None))
    decision = decide(observed(job=job, pods=pods, sessions=sessions))
    assert decision.status.formation.serials == (1, 4)
    assert (places(decision), spares(decision)) == ([1, 4], [3, 5])


def test_places_stay_in_the_order_of_serials() -> None:
    status = training_status(members=listed(4, 5, spares=(3,)), last_serial=5, formation=a_formation(serials=(4, 5)))
    sessions = (a_fresh_session(3), a_session(4))
    decision = decide(observed(job=a_job(status=status, spares=1), pods=(a_pod(3), a_pod(4)), sessions=sessions))
    assert (places(decision), spares(decision)) == ([3, 4], [])


@pytest.mark.parametrize(
    ("second", "status", "kept", "left"),
    [
        (a_pending_pod(2), over_status(formation=a_formation(serials=(1, 9), is_over=True, over_at=ago(5))), [1, 3], [2]),
        (a_pod(2), over_status(formation=a_formation(serials=(1, 9), is_over=True, over_at=ago(5))), [1, 3], [2]),
        (a_pod(2), over_status(), [1, 2], [3]),
    ],
    ids=["no node", "prepares", "one of the crew may come back with the newest state"],
)
def test_a_ready_spare_changes_places_with_a_member_that_never_took_part(second, status, kept, left) -> None:
    decision = decide(with_spare(pods=(1, second, 3), sessions=(a_session(1, phase=MemberPhase.STOPPED), 3), status=status))
    assert (places(decision), spares(decision)) == (kept, left)
    assert decision.status.restarts.crashes == 0
    assert decision.delete == ()


@pytest.mark.parametrize(
    ("pods", "sessions", "why"),
    [
        ((1, 2), (1, 2), "its pod is gone"),
        ((1, 2, a_pod(3, phase=PodPhase.FAILED, exit_code=1)), (1, 2), "bot-ab12-3 ended with exit code 1"),
        ((1, 2, a_pod(3, is_deleting=True)), (1, 2, 3), "it was told to end"),
        (
            (1, 2, 3),
            (1, 2, changed_session(PREPARING, phase=MemberPhase.FAILED, failure=NO_MODEL)),
            "it could not prepare: 403 from the hub",
        ),
        ((1, 2, 3), (1, 2, a_fresh_session(3, inputs=OTHER_BYTES)), "it found other bytes of model or data"),
    ],
    ids=["gone", "crashed", "leaves", "cannot prepare", "found other bytes"],
)
def test_a_lost_spare_is_no_trouble_of_the_job(pods, sessions, why) -> None:
    seen = with_spare(pods=pods, sessions=sessions)
    decision = decide(seen)
    assert decision.status.formation == a_formation()
    assert (decision.status.restarts, decision.status.silent_members, decision.status.recoveries) == (Restarts(), MemberFailures(), ())
    assert [(event.reason, event.message) for event in decision.events] == [("SpareMissing", f"bot-ab12-3: {why}")]
    assert (spares(decision), decision.create) == ([], ())
    later = replace(seen, now=ago(-1), job=seen.job.model_copy(update={"status": decision.status}))
    assert decide(later).create == (4,)


def test_a_ready_spare_that_connected_since_the_last_loss_ends_the_back_off() -> None:
    status = training_status(lost_spares=MemberFailures(count=5, last_at=ago(60)))
    assert decide(with_spare(status=status)).status.lost_spares.count == 5, "it was ready before"
    assert decide(with_spare(status=status, sessions=(1, 2, a_fresh_session(3, changed_at=ago(9))))).status.lost_spares.count == 0


def test_a_spare_that_the_cluster_refuses_is_held_back_alone() -> None:
    seen = with_spare(pods=(1, 2), sessions=(1, 2), unseen=(3,), last_applied_error="403 exceeded quota")
    decision = decide(seen)
    assert (decision.create, spares(decision)) == ((), [3])
    assert decision.status.placement == Placement()
    assert decision.status.lost_spares == MemberFailures(count=1, last_at=NOW)
    assert decision.status.columns.reason == "Training"
    later = replace(seen, now=ago(-1), last_applied_error=None, job=seen.job.model_copy(update={"status": decision.status}))
    assert decide(later).create == (3,)


@pytest.mark.parametrize(
    ("second", "third", "line", "is_given_back"),
    [
        (2, a_pending_pod(3), (), False),
        (2, a_pending_pod(3), (OTHER,), True),
        (2, a_pending_pod(3), (replace(OTHER, backoff_until=ago(-9)),), False),
        (2, 3, (OTHER,), False),
        (2, 3, (replace(OTHER, has_unschedulable=True),), True),
        (a_pending_pod(2), a_pending_pod(3), (), True),
    ],
    ids=[
        "nobody waits",
        "another gang waits",
        "another gang backs off",
        "a running one stays while others wait for their turn",
        "a running one goes when others lack room",
        "its own gang lacks a node",
    ],
)
def test_a_spare_without_a_node_is_given_back_first(second, third, line, is_given_back) -> None:
    sessions = (1,) if second != 2 else (1, 2)
    decision = decide(with_spare(pods=(1, second, third), sessions=sessions, line=line))
    assert [doomed.uid for doomed in decision.delete] == (["pod-3"] if is_given_back else [])
    assert spares(decision) == ([] if is_given_back else [3])
    assert places(decision) == [1, 2]


def test_a_spare_without_a_node_never_stands_in_the_line() -> None:
    seen = with_spare()
    assert line_entry(seen.job, (a_pod(1), a_pod(2), a_pending_pod(3)), NOW) is None


def test_a_spare_without_a_node_does_not_leave_a_gang_incomplete() -> None:
    decision = decide(with_spare(pods=(1, 2, a_pending_pod(3)), sessions=(1, 2)))
    assert (decision.status.phase, decision.status.columns.reason) == ("Training", "Training")
    assert decision.status.condition("Admitted").status == "True"


def test_a_gang_with_a_spare_that_prepares_does_not_give_back() -> None:
    status = over_status(since=400, formation=a_formation(serials=(1, 9), is_over=True, over_at=ago(400)))
    seen = with_spare(pods=(1, a_pending_pod(2, created_at=ago(400)), 3), sessions=(1, PREPARING), status=status)
    assert places(decide(seen)) == [1, 2]


def test_spares_exit_with_the_others_when_the_job_ends() -> None:
    failure = FailureReport(failure_class=FailureClass.USER_ERROR, message="row 7 is empty")
    failed = {"phase": MemberPhase.FAILED, "failure": failure, "failed_formation": 1}
    decision = decide(with_spare(sessions=(a_session(1, **failed), 2, 3)))
    assert decision.status.phase == "Failed"
    assert orders(decision, Exit) == ["pod-1", "pod-2", "pod-3"]
    assert decision.status.members == ()


def test_a_suspended_job_waits_for_no_spare() -> None:
    stopped = [a_session(serial, phase=MemberPhase.STOPPED, snapshot=None, progress=None) for serial in (1, 2)]
    seen = with_spare(sessions=(*stopped, PREPARING))
    suspended = replace(seen, job=seen.job.model_copy(update={"spec": seen.job.spec.model_copy(update={"suspend": True})}))
    decision = decide(suspended)
    assert [doomed.uid for doomed in decision.delete] == ["pod-1", "pod-2", "pod-3"]
    assert decision.status.members == ()
