"""What speaks against a formation, and which of several reports explains its end."""

from dataclasses import replace

import pytest
from tests.builders.observed import NOW, a_job, a_pod, a_recovery, a_session, ago, gang_of, observed, some_progress, training_status

from finetune_contract.failures import FailureClass, FailureKind, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Inspect, Probe, Start
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase
from finetune_operator.decide.recovering.recoveries import has_a_bad_device, kind_of_record
from finetune_operator.decide.recovering.trouble import trouble_of, trouble_of_ended_pod

CUT_OFF = {"is_connected": False, "changed_at": ago(3)}
SEES_TWO_GONE = {"unreachable_peers": frozenset({"pod-2"})}


def report(failure_class: FailureClass, message: str, **changes) -> FailureReport:
    return FailureReport(failure_class=failure_class, message=message, **changes)


def failed(serial: int, failure: FailureReport):
    return a_session(serial, phase=MemberPhase.FAILED, failure=failure, failed_formation=1)


PEER_LOST = report(FailureClass.INFRASTRUCTURE, "peer lost: connection reset", rank=0)
KILLED = report(FailureClass.INFRASTRUCTURE, "killed by SIGKILL", rank=1, signal="SIGKILL")
BAD_ROW = report(FailureClass.USER_ERROR, "row 7 is empty", rank=1)


def stalled(seconds: float, **progress):
    return a_session(1, progress=some_progress(**progress), progressed_at=ago(seconds), phase_at=ago(9999))


@pytest.mark.parametrize(
    ("first", "failure_class"),
    [
        (stalled(29), None),
        (stalled(30), "Hang"),
        (stalled(59, step_seconds=20.0), None),
        (stalled(60, step_seconds=20.0), "Hang"),
        (stalled(999, step=100), None),
        (a_session(1, progressed_at=ago(999), phase=MemberPhase.EVALUATING), None),
        (a_session(1, progressed_at=ago(999), phase=MemberPhase.STARTING), None),
        (a_session(1, progressed_at=ago(999), phase_at=ago(2)), None),
        (a_session(1, progressed_at=ago(999), is_connected=False), None),
        (a_session(1, progressed_at=ago(999), progress=some_progress(formation=0)), None),
        (a_session(1, progressed_at=None, progress=None), None),
    ],
    ids=[
        "stepping",
        "stalled",
        "slow steps",
        "slow steps, stalled",
        "after the last step",
        "evaluates",
        "first step",
        "has just evaluated",
        "unknown: no channel",
        "progress of an older formation",
        "unknown: nothing reported",
    ],
)
def test_a_formation_is_stepping_stalled_or_unknown(first, failure_class) -> None:
    trouble = trouble_of(gang_of(observed(sessions=(first, a_session(2)))))
    assert (None if trouble is None else trouble.failure_class) == failure_class


def test_a_formation_that_hangs_writes_down_its_stacks_before_it_is_stopped() -> None:
    seen = observed(sessions=(stalled(40), a_session(2)))
    decision = decide(seen)
    assert decision.status.recoveries[-1].reason == "no step was finished for 40 s after step 10 (a step usually takes 1.0 s)"
    assert [(order.member_uid, type(order.order)) for order in decision.orders] == [("pod-1", Inspect), ("pod-2", Inspect)]
    assert decision.look_again_seconds == 0.5
    later = decide(replace(seen, now=ago(-0.5), job=a_job(status=decision.status)))
    assert later.status.formation.number == 2
    assert [type(order.order) for order in later.orders] == [Start, Start]


@pytest.mark.parametrize(
    ("first", "second", "is_lost"),
    [
        (SEES_TWO_GONE, CUT_OFF, True),
        (SEES_TWO_GONE, CUT_OFF | {"changed_at": ago(2.9)}, False),
        ({}, CUT_OFF, False),
        (SEES_TWO_GONE, {}, False),
        (SEES_TWO_GONE | {"is_connected": False}, CUT_OFF, False),
    ],
    ids=["nobody reaches it", "not yet for 3 s", "a peer reaches it", "its channel is up", "no peer can be asked"],
)
def test_a_member_is_lost_when_neither_we_nor_its_peers_reach_it(first, second, is_lost) -> None:
    seen = observed(sessions=(a_session(1, **first), a_session(2, **second)))
    assert (trouble_of(gang_of(seen)) is not None) == is_lost


def test_every_connected_peer_is_asked_about_a_silent_member() -> None:
    decision = decide(observed(sessions=(a_session(1), a_session(2, is_connected=False, changed_at=NOW))))
    assert [(order.member_uid, order.order) for order in decision.orders] == [
        ("pod-1", Probe(term=1, peer_uid="pod-2", address="10.0.0.2:7000"))
    ]
    assert decision.look_again_seconds == 1


def test_a_silent_member_is_looked_at_again_when_it_may_be_given_up() -> None:
    decision = decide(observed(sessions=(a_session(1), a_session(2, is_connected=False, changed_at=ago(2.75)))))
    assert decision.look_again_seconds == 0.25


@pytest.mark.parametrize(
    ("sessions", "pods", "failure_class", "member"),
    [
        ((failed(1, PEER_LOST), failed(2, KILLED)), (a_pod(1), a_pod(2)), "Infrastructure", "bot-ab12-2"),
        ((failed(1, PEER_LOST), failed(2, BAD_ROW)), (a_pod(1), a_pod(2)), "UserError", "bot-ab12-2"),
        ((failed(1, PEER_LOST), a_session(2, is_connected=False)), (a_pod(1),), "Disrupted", "bot-ab12-2"),
        ((failed(1, KILLED), a_session(2, is_connected=False)), (a_pod(1),), "Disrupted", "bot-ab12-2"),
        ((failed(1, PEER_LOST), a_session(2)), (a_pod(1), a_pod(2, is_deleting=True)), "Disrupted", "bot-ab12-2"),
        ((failed(1, PEER_LOST), a_session(2)), (a_pod(1), a_pod(2)), "Infrastructure", "bot-ab12-1"),
        ((stalled(40), failed(2, KILLED)), (a_pod(1), a_pod(2)), "Infrastructure", "bot-ab12-2"),
    ],
    ids=["the cause", "the user's error", "a lost member", "lost before crashed", "a leaving member", "only a victim", "a crash"],
)
def test_the_best_evidence_explains_the_end(sessions, pods, failure_class, member) -> None:
    trouble = trouble_of(gang_of(observed(sessions=sessions, pods=pods)))
    assert trouble is not None
    assert (trouble.failure_class, trouble.member) == (failure_class, member)


WORDS = ("", "peer lost", "device error", "bot-ab12-2 was lost: its pod is gone", "etwas anderes")


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    ("kind", "other", "member"),
    [
        (FailureKind.VICTIM, FailureKind.CAUSE, "bot-ab12-2"),
        (FailureKind.CAUSE, FailureKind.VICTIM, "bot-ab12-1"),
        (FailureKind.VICTIM, FailureKind.DEVICE, "bot-ab12-2"),
        (FailureKind.CAUSE, FailureKind.LOSS, "bot-ab12-1"),  # no member says that it was lost: that is seen
    ],
)
def test_no_word_of_a_report_decides_what_explains_the_end(words, kind, other, member) -> None:
    first, second = (report(FailureClass.INFRASTRUCTURE, words, kind=one) for one in (kind, other))
    trouble = trouble_of(gang_of(observed(sessions=(failed(1, first), failed(2, second)))))
    assert trouble is not None
    assert trouble.member == member


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(("kind", "is_bad"), [("device", True), ("cause", False), ("victim", False), ("of a newer operator", False)])
def test_no_word_of_a_record_decides_whether_a_device_is_bad(words, kind, is_bad) -> None:
    records = tuple(a_recovery(formation=number, failure_class="Infrastructure", kind=kind, reason=words) for number in (1, 2))
    assert has_a_bad_device(training_status(recoveries=records), "bot-ab12-2") is is_bad


@pytest.mark.parametrize(
    ("words", "failure_class", "kind"),
    [
        ("peer lost: reset", "Infrastructure", FailureKind.VICTIM),
        ("device error: illegal access", "Infrastructure", FailureKind.DEVICE),
        ("killed by SIGKILL", "Infrastructure", FailureKind.CAUSE),
        ("bot-ab12-2 was lost: its pod is gone", "Disrupted", FailureKind.LOSS),
        ("row 3: peer lost", "UserError", FailureKind.CAUSE),
    ],
)
def test_records_without_a_kind_are_read_by_the_words_of_the_operator_that_wrote_them(words, failure_class, kind) -> None:
    assert kind_of_record(a_recovery(failure_class=failure_class, reason=words)) is kind


@pytest.mark.parametrize(
    ("changes", "is_evidence"),
    [
        ({"failed_formation": 1}, True),
        ({"failed_formation": 0, "phase": MemberPhase.FAILED}, True),
        ({"failed_formation": 0, "phase": MemberPhase.TRAINING}, False),
        ({"failed_formation": 0, "phase": MemberPhase.FAILED, "formation": 0}, False),
    ],
    ids=["said so", "found failed by a hello", "an older failure", "has not obeyed the start yet"],
)
def test_a_failure_speaks_against_its_own_formation_only(changes, is_evidence) -> None:
    seen = observed(sessions=(a_session(1), a_session(2, failure=KILLED, **changes)))
    assert (trouble_of(gang_of(seen)) is not None) == is_evidence


@pytest.mark.parametrize(
    ("pod", "failure_class"),
    [
        ({"phase": PodPhase.SUCCEEDED}, None),
        ({"exit_code": 0}, None),
        ({"exit_code": 143}, "Disrupted"),
        ({"exit_code": 137, "disruption": "Evicted"}, "Disrupted"),
        ({"exit_code": 137, "is_deleting": True}, "Disrupted"),
        ({"exit_code": 137, "is_oom_killed": True}, "OutOfMemory"),
        ({"exit_code": 1, "last_words": BAD_ROW}, "UserError"),
        ({"exit_code": 1}, "Infrastructure"),
        ({}, "Infrastructure"),
    ],
    ids=["succeeded", "done", "was leaving", "evicted", "deleted", "out of memory", "last words", "a code", "nothing"],
)
def test_an_ended_pod_is_classified(pod, failure_class) -> None:
    over = a_pod(2, **({"phase": PodPhase.FAILED} | pod))
    member = gang_of(observed(pods=(a_pod(1), over))).members[1]
    trouble = trouble_of_ended_pod(member, over)
    assert (None if trouble is None else trouble.failure_class) == failure_class


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (KILLED, "rank 1 on bot-ab12-2: killed by SIGKILL"),
        (report(FailureClass.HANG, "rank 1 hangs: no progress for 31 s", rank=1), "rank 1 on bot-ab12-2 hangs: no progress for 31 s"),
        (report(FailureClass.INTERNAL, "no zygote"), "bot-ab12-2: no zygote"),
        (BAD_ROW, "row 7 is empty"),
        (report(FailureClass.DISRUPTED, "the node shuts down"), "bot-ab12-2 was lost: the node shuts down"),
    ],
    ids=["rank and member", "a sentence about the rank", "member", "the user's words alone", "a loss"],
)
def test_a_trouble_names_the_culprit(failure, message) -> None:
    trouble = trouble_of(gang_of(observed(sessions=(a_session(1), failed(2, failure)))))
    assert trouble is not None
    assert trouble.message == message
