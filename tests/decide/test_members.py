"""The places of a gang: replaced, released, created, cleared; a serial is never used twice."""

from dataclasses import replace

import pytest
from tests.builders.observed import (
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
    placing_status,
    training_status,
)

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_operator.api.status import MemberEntry, MemberFailures, Placement, Restarts
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase

CUT_OFF = a_session(2, is_connected=False, changed_at=ago(3))
COULD_NOT_PREPARE = a_fresh_session(
    2,
    phase=MemberPhase.FAILED,
    inputs=None,
    failure=FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="s3://data: connection refused"),
)
EXPORTS = a_session(1, phase=MemberPhase.EXPORTING)


def serials(decision) -> list[int]:
    return [entry.serial for entry in decision.status.members]


def second(*, pod=None, session=None, first=None, **changes):
    """Two members that train; the sentence is about the second one. `pod` False: it is gone."""
    pods = (a_pod(1),) if pod is False else (a_pod(1), pod or a_pod(2))
    return observed(pods=pods, sessions=(first or a_session(1), session or a_session(2)), **changes)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (second(pod=False), "its pod is gone"),
        (second(pod=a_pod(2, phase=PodPhase.FAILED, exit_code=1)), "bot-ab12-2 ended with exit code 1"),
        (second(pod=a_pod(2, phase=PodPhase.FAILED, disruption="Evicted")), "its pod was ended (Evicted)"),
        (second(pod=a_pod(2, is_deleting=True)), "it was told to end"),
        (second(pod=a_pod(2, disruption="TaintManager")), "it was told to end"),
        (second(session=a_session(2, leaving_until=ago(-50))), "it was told to end"),
        (
            second(session=CUT_OFF, first=a_session(1, unreachable_peers=frozenset({"pod-2"}))),
            "neither the operator nor any of its peers can reach it",
        ),
        (second(session=COULD_NOT_PREPARE), "it could not prepare: s3://data: connection refused"),
    ],
    ids=["gone", "ended", "evicted", "deleted", "tainted", "leaving", "unreachable", "unprepared"],
)
def test_a_lost_or_leaving_member_is_replaced_at_once_by_a_new_serial(seen, why) -> None:
    decision = decide(seen)
    assert serials(decision) == [1, 3]
    assert decision.create == (3,)
    assert decision.status.last_serial == 3
    assert [event.message for event in decision.events if event.reason == "MemberLost"] == [
        f"bot-ab12-2: {why}; its replacement is bot-ab12-3"
    ]


def test_a_member_whose_device_failed_twice_in_a_row_is_replaced_before_anything_starts() -> None:
    report = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="device error: CUDA error: an illegal access", rank=1)
    words = "rank 1 on bot-ab12-2: device error: CUDA error"
    before = (a_recovery(formation=1, failure_class="Infrastructure", member="bot-ab12-2", reason=words, total_seconds=1.0),)
    status = training_status(formation=a_formation(number=2), last_formation=2, recoveries=before)
    failed = {"phase": MemberPhase.FAILED, "failure": report, "failed_formation": 2, "formation": 2}
    seen = observed(job=a_job(status=status), sessions=(a_session(1, formation=2), a_session(2, **failed)))
    first = decide(seen)
    assert (first.status.last_formation, serials(first)) == (2, [1, 2])
    second_pass = decide(replace(seen, job=a_job(status=first.status)))
    assert (second_pass.status.last_formation, serials(second_pass), second_pass.create) == (2, [1, 3], (3,))


@pytest.mark.parametrize(
    "seen",
    [
        second(),
        second(session=replace(CUT_OFF, changed_at=ago(3600))),
        second(session=CUT_OFF),
        second(pod=False, is_reconnect_over=False),
        second(pod=False, first=EXPORTS),
        second(pod=a_pending_pod(2), session=a_session(1)),
    ],
    ids=["healthy", "cut off for an hour", "cut off, peers reach it", "reconnect window", "node rank 0 exports", "no room yet"],
)
def test_a_member_stays_without_evidence_against_it(seen) -> None:
    decision = decide(seen)
    assert serials(decision) == [1, 2]
    assert decision.create == ()
    assert decision.delete == ()


def test_both_members_can_be_lost_at_once() -> None:
    decision = decide(observed(pods=(), sessions=()))
    assert serials(decision) == [3, 4]
    assert decision.create == (3, 4)


def test_a_name_that_belongs_to_somebody_else_is_never_used() -> None:
    status = placing_status(members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=2)))
    decision = decide(observed(job=a_job(status=status), pods=(a_pod(1),), sessions=(), taken_serials=frozenset({2})))
    assert decision.create == (3,)


def test_a_pod_that_was_created_but_never_seen_is_created_again_under_its_name() -> None:
    status = placing_status(members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=2)))
    seen = observed(job=a_job(status=status), pods=(a_pod(1),), sessions=())
    assert decide(seen).create == (2,)
    assert decide(seen).status.last_serial == 2


def test_the_uid_of_a_creation_is_noted() -> None:
    status = placing_status(members=(MemberEntry(serial=1), MemberEntry(serial=2)))
    decision = decide(observed(job=a_job(status=status), sessions=(), noted={1: "pod-1", 2: "pod-2"}))
    assert decision.status.members == (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=2, uid="pod-2"))
    assert decision.create == ()


def test_a_place_is_not_given_to_whichever_pod_wears_its_serial() -> None:
    status = placing_status(members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=2)))
    stranger = a_pod(2, uid="evil", name="not-ours")
    decision = decide(observed(job=a_job(status=status), pods=(a_pod(1), stranger), sessions=(a_fresh_session(2, member_uid="evil"),)))
    assert decision.status.members == status.members
    assert decision.create == (2,)
    assert [pod.uid for pod in decision.delete] == ["evil"]
    assert not any(order.order.type == "start" for order in decision.orders)


def test_a_pod_that_a_creation_without_an_answer_left_is_asked_for_again_and_not_deleted() -> None:
    status = placing_status(members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=2)))
    decision = decide(observed(job=a_job(status=status), sessions=()))
    assert (decision.create, decision.delete) == ((2,), ())


def test_a_created_pod_that_is_gone_before_it_was_noted_is_replaced_under_another_name() -> None:
    status = placing_status(members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=2)))
    decision = decide(observed(job=a_job(status=status), pods=(a_pod(1),), sessions=(), noted={2: "pod-2"}))
    assert serials(decision) == [1, 3]


def test_a_namesake_takes_no_part_in_a_formation() -> None:
    status = training_status(members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3, uid="pod-3")), last_serial=3)
    twin = a_pod(2, uid="evil")
    decision = decide(
        observed(job=a_job(status=status), pods=(a_pod(1), twin, a_pod(3)), sessions=(a_session(1), a_session(2, member_uid="evil")))
    )
    assert decision.status.formation.is_over
    assert [pod.uid for pod in decision.delete] == ["evil"]


@pytest.mark.parametrize(
    ("nodes", "formation", "kept"),
    [((1, 2), a_formation(), [1, 2]), ((1, 1), None, [1]), ((1, 1), a_formation(serials=(2,)), [2])],
    ids=["none is surplus", "the youngest goes", "one that trains stays"],
)
def test_surplus_members_are_released(nodes, formation, kept) -> None:
    job = a_job(status=training_status(formation=formation), nodes=nodes)
    decision = decide(observed(job=job))
    assert serials(decision) == kept
    assert {doomed.uid for doomed in decision.delete} == {"pod-1", "pod-2"} - {f"pod-{serial}" for serial in kept}


@pytest.mark.parametrize(
    ("stray", "status", "deleted"),
    [
        (a_pod(9), training_status(), ["pod-9"]),
        (a_pod(9, is_deleting=True), training_status(), []),
        (a_pod(9, phase=PodPhase.FAILED), training_status(), []),
        (a_pod(9), training_status(formation=a_formation(serials=(1, 9))), []),
        (a_pod(9), over_status(formation=a_formation(serials=(1, 9), is_over=True, over_at=ago(2))), ["pod-9"]),
    ],
    ids=["alive", "already going", "ended", "trains until the replacement is ready", "its formation is over"],
)
def test_pods_that_are_not_listed_are_cleared(stray, status, deleted) -> None:
    decision = decide(observed(job=a_job(status=status), pods=(a_pod(1), a_pod(2), stray), sessions=(a_session(1),)))
    assert [doomed.uid for doomed in decision.delete] == deleted


def test_the_last_three_failed_pods_are_kept_for_their_logs() -> None:
    failed = tuple(a_pod(serial, phase=PodPhase.FAILED) for serial in (3, 4, 5, 6, 7))
    decision = decide(observed(pods=(a_pod(1), a_pod(2), *failed)))
    assert [doomed.uid for doomed in decision.delete] == ["pod-4", "pod-3"]


def silent(*, pod, count=0, last_at=NOW, session=None):
    """A gang that was never whole, whose second member has never said anything."""
    status = placing_status(silent_members=MemberFailures(count=count, last_at=last_at if count else None))
    pods = (a_pod(1),) if pod is None else (a_pod(1), pod)
    sessions = () if session is None else (session,)
    return observed(job=a_job(status=status), pods=pods, sessions=sessions)


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        (silent(pod=a_pod(2, phase=PodPhase.FAILED, exit_code=1)), 1),
        (silent(pod=a_pod(2, phase=PodPhase.SUCCEEDED, exit_code=0)), 1),
        (silent(pod=a_pod(2, phase=PodPhase.FAILED, disruption="Preempted")), 1),
        (silent(pod=a_pending_pod(2, is_deleting=True)), 1),
        (silent(pod=None), 1),
        (silent(pod=a_pod(2, phase=PodPhase.FAILED), count=4), 5),
        (silent(pod=a_pod(2, phase=PodPhase.FAILED, exit_code=1), session=a_fresh_session(2, is_connected=False)), 0),
    ],
    ids=["crashed", "ended well", "preempted", "deleted", "vanished", "the fifth", "said hello"],
)
def test_a_member_that_ended_without_a_word_is_counted(seen, count) -> None:
    decision = decide(seen)
    assert serials(decision) == [1, 3]
    assert decision.status.silent_members.count == count
    assert bool(decision.create) == (count == 0)


@pytest.mark.parametrize(("count", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (29, 60)])
def test_the_next_one_waits_longer_every_time(count, seconds) -> None:
    status = placing_status(
        members=(MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3)),
        last_serial=3,
        silent_members=MemberFailures(count=count, last_at=NOW),
    )
    seen = observed(job=a_job(status=status), pods=(a_pod(1),), sessions=())
    assert decide(seen).create == ()
    assert decide(seen).look_again_seconds == min(seconds, 5)
    assert decide(replace(seen, now=ago(-seconds))).create == (3,)


def test_any_hello_ends_the_back_off() -> None:
    seen = silent(pod=a_pod(2), count=5, last_at=ago(2), session=a_fresh_session(2, changed_at=ago(1)))
    assert decide(seen).status.silent_members.count == 0


def test_a_member_of_a_formation_is_replaced_without_delay_also_by_a_new_operator() -> None:
    seen = observed(pods=(a_pod(1),), sessions=(a_session(1),))
    assert decide(seen).create == (3,)
    assert decide(seen).status.silent_members.count == 0


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 5), (1, 10), (9, 60)])
def test_a_training_gang_holds_a_creation_that_was_refused(attempts, seconds) -> None:
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3))
    status = training_status(members=members, last_serial=3, placement=Placement(attempts=attempts))
    seen = observed(job=a_job(status=status), pods=(a_pod(1), a_pod(2, is_deleting=True)), last_applied_error="403 exceeded quota")
    decision = decide(seen)
    assert decision.create == ()
    assert decision.status.placement.backoff_until == ago(-seconds)
    assert decision.status.condition("Running").message.endswith("the cluster refused a member: 403 exceeded quota")
    later = replace(seen, now=ago(-seconds), job=a_job(status=decision.status), last_applied_error=None)
    assert decide(later).create == (3,)


def test_a_member_that_crashes_before_it_takes_part_uses_up_the_budget() -> None:
    status = training_status(restarts=Restarts(crashes=1, crashes_without_progress=1), formation=None)
    decision = decide(observed(job=a_job(status=status), sessions=(a_fresh_session(1), COULD_NOT_PREPARE)))
    assert decision.status.restarts == Restarts(crashes=2, crashes_without_progress=2)
    assert serials(decision) == [1, 3]
