"""The newest formation: when it is stopped, when the next one starts, from where, and which orders follow."""

from dataclasses import replace

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
    changed_session,
    gang_of,
    observed,
    over_status,
    some_progress,
    training_status,
)

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Overrides, Peer, Start, Stop
from finetune_contract.state import StateId
from finetune_operator.api.status import CommitEntry, JobStatus, MemberEntry, PinnedOverrides, Placement
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase
from finetune_operator.decide.recovering.resume import in_rank_order, next_number, resume_point

READY = {"phase": MemberPhase.READY, "formation": 0, "snapshot": None, "progress": None}
STOPPED = {"phase": MemberPhase.STOPPED}
PEER_LOST = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="peer lost: connection reset", rank=0)
LOST_ITS_PEER = {"phase": MemberPhase.FAILED, "failure": PEER_LOST, "failed_formation": 1}
PREPARING = {"phase": MemberPhase.PREPARING, "inputs": None, "formation": 0, "snapshot": None}


def unformed(**changes) -> JobStatus:
    return training_status(formation=None, last_formation=0, **changes)


def replaced(status=None, **third):
    """Member 2 was replaced by member 3, which says what the sentence is about."""
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3, uid="pod-3"))
    job = a_job(status=(status or over_status()).model_copy(update={"members": members, "last_serial": 3}))
    return observed(job=job, pods=(a_pod(1), a_pod(3)), sessions=(a_session(1, **STOPPED), a_session(3, **(READY | third))))


def orders(decision, kind) -> dict[str, object]:
    return {order.member_uid: order.order for order in decision.orders if isinstance(order.order, kind)}


def test_the_first_formation_starts_when_all_members_are_ready() -> None:
    decision = decide(observed(job=a_job(status=unformed()), sessions=(a_fresh_session(1), a_fresh_session(2))))
    entry = decision.status.formation
    assert entry is not None
    assert (entry.number, entry.serials, entry.resume, entry.ordered_at) == (1, (1, 2), None, NOW)
    assert decision.status.last_formation == 1
    peers = (
        Peer(member_uid="pod-1", name="bot-ab12-1", address="10.0.0.1"),
        Peer(member_uid="pod-2", name="bot-ab12-2", address="10.0.0.2"),
    )
    start = Start(
        term=1, formation=1, node_rank=0, peers=peers, master_address="10.0.0.1", master_port=29500, inputs=INPUTS, overrides=Overrides()
    )
    assert orders(decision, Start) == {"pod-1": start, "pod-2": start.model_copy(update={"node_rank": 1})}


@pytest.mark.parametrize(
    ("sessions", "pods", "nodes", "serials"),
    [
        ((a_fresh_session(1),), (a_pod(1), a_pod(2)), (2, 2), None),
        ((a_fresh_session(1), a_fresh_session(2, **PREPARING)), (a_pod(1), a_pod(2)), (2, 2), None),
        ((a_fresh_session(1), a_fresh_session(2, is_connected=False)), (a_pod(1), a_pod(2)), (2, 2), None),
        ((a_fresh_session(1), a_fresh_session(2, leaving_until=ago(-9))), (a_pod(1), a_pod(2)), (2, 2), None),
        ((a_fresh_session(1),), (a_pod(1), a_pending_pod(2, created_at=ago(30))), (2, 2), None),
        ((a_fresh_session(1),), (a_pod(1), a_pending_pod(2, created_at=ago(29))), (1, 2), None),
        ((a_fresh_session(1),), (a_pod(1), a_pending_pod(2, created_at=ago(30))), (1, 2), (1,)),
        ((a_fresh_session(1),), (a_pod(1), a_pod(2)), (1, 2), None),
    ],
    ids=[
        "no hello",
        "prepares",
        "no channel",
        "leaves",
        "no room",
        "elastic: no room yet",
        "elastic: no room for long",
        "elastic: prepares",
    ],
)
def test_a_formation_waits_for_every_member_that_can_come(sessions, pods, nodes, serials) -> None:
    decision = decide(observed(job=a_job(status=unformed(), nodes=nodes), pods=pods, sessions=sessions))
    entry = decision.status.formation
    assert (None if entry is None else entry.serials) == serials


@pytest.mark.parametrize(
    ("since", "nodes", "third", "serials"),
    [(29, (1, 2), PREPARING, None), (30, (1, 2), PREPARING, (1,)), (30, (2, 2), PREPARING, None), (29, (1, 2), READY, (1, 3))],
    ids=["waits", "waited", "not elastic", "ready in time"],
)
def test_an_elastic_gang_goes_on_without_a_replacement_that_is_not_ready_in_time(since, nodes, third, serials) -> None:
    seen = replaced(over_status(since=since), **third)
    job = a_job(status=seen.job.status, nodes=nodes)
    entry = decide(replace(seen, job=job)).status.formation
    assert (None if entry.number == 1 else entry.serials) == serials


def test_an_elastic_gang_waits_for_a_survivor_that_may_hold_the_newest_state() -> None:
    job = a_job(status=over_status(since=300), nodes=(1, 2))
    decision = decide(observed(job=job, sessions=(a_session(1, **STOPPED), a_session(2, is_connected=False))))
    assert decision.status.formation.number == 1


def test_nothing_starts_inside_the_reconnect_window() -> None:
    assert not decide(replace(replaced(), is_reconnect_over=False)).orders


@pytest.mark.parametrize(
    ("status", "sessions", "number"),
    [
        (JobStatus(), (), 1),
        (JobStatus(last_formation=7), (), 8),
        (JobStatus(), (a_session(1, formation=4), a_session(2, formation=9)), 10),
        (JobStatus(), (a_session(1, formation=0, commit=StateId(formation=12, step=1)),), 13),
        (JobStatus(), (a_session(1, formation=0, snapshot=StateId(formation=3, step=1)),), 4),
        (JobStatus(last_commit=CommitEntry(formation=20, step=1, key="k", num_bytes=1, at=NOW)), (), 21),
    ],
    ids=["first", "status", "hello", "commit of a member", "snapshot", "commit in status"],
)
def test_the_next_number_is_greater_than_all_that_anybody_has_seen(status, sessions, number) -> None:
    assert next_number(gang_of(observed(job=a_job(status=status), sessions=sessions))) == number


def state(formation, step) -> StateId:
    return StateId(formation=formation, step=step)


@pytest.mark.parametrize(
    ("first", "second", "written", "resumed", "holder"),
    [
        ({"snapshot": None}, {"snapshot": None}, None, None, None),
        ({"snapshot": state(1, 10)}, {"snapshot": state(1, 12)}, None, state(1, 12), 2),
        ({"snapshot": state(1, 99)}, {"snapshot": state(2, 5)}, None, state(2, 5), 2),
        ({"snapshot": state(1, 10)}, {"snapshot": None}, state(1, 8), state(1, 10), 1),
        ({"snapshot": None}, {"snapshot": None}, state(1, 8), state(1, 8), None),
        ({"snapshot": state(1, 10)}, {"snapshot": None, "commit": state(2, 1)}, None, state(2, 1), None),
        ({"snapshot": state(1, 10), "progress": some_progress(step=11)}, {"snapshot": state(1, 10)}, None, state(1, 11), 1),
    ],
    ids=["nothing", "newest snapshot", "newer formation", "snapshot over commit", "commit", "commit over snapshot", "reported step"],
)
def test_training_goes_on_from_the_newest_state_that_is_left(first, second, written, resumed, holder) -> None:
    commit = None if written is None else CommitEntry(formation=written.formation, step=written.step, key="k", num_bytes=1, at=NOW)
    sessions = (a_session(1, **({"progress": None} | first)), a_session(2, **second))
    gang = gang_of(observed(job=a_job(status=over_status(last_commit=commit)), sessions=sessions))
    crew = in_rank_order(gang.members)
    point = resume_point(gang, crew)
    assert point.state == resumed
    assert (None if point.holder is None else point.holder.serial) == holder
    assert holder is None or crew[0].serial == holder


def test_the_next_formation_tells_who_holds_the_state() -> None:
    decision = decide(replaced())
    assert decision.status.formation.serials == (1, 3)
    started = orders(decision, Start)
    assert started["pod-3"].resume == state(1, 10)
    assert started["pod-3"].resume_node_rank == 0
    assert started["pod-3"].formation == 2
    assert decision.status.restarts.disruptions == 1


def test_pinned_inputs_and_overrides_travel_with_every_start() -> None:
    pinned = training_status().pinned.model_copy(update={"overrides": PinnedOverrides(pack_tokens=512)})
    started = orders(decide(replaced(status=over_status(pinned=pinned))), Start)
    assert started["pod-1"].inputs == INPUTS
    assert started["pod-1"].overrides == Overrides(pack_tokens=512)


@pytest.mark.parametrize(
    ("pods", "sessions", "is_over"),
    [
        ((a_pod(1), a_pod(2)), (a_session(1), a_session(2)), False),
        ((a_pod(1),), (a_session(1), a_session(2, is_connected=False)), True),
        ((a_pod(1), a_pod(2)), (a_session(1), a_session(2, is_connected=False, changed_at=ago(3600))), False),
        ((a_pod(1), a_pod(2)), (a_session(1, is_connected=False), a_session(2, is_connected=False)), False),
        ((a_pod(1), a_pod(2)), (), False),
        ((a_pod(1), a_pod(2, is_deleting=True)), (a_session(1), a_session(2, leaving_until=ago(-9))), False),
        ((a_pod(1), a_pod(2, is_deleting=True)), (a_session(1), a_session(2, leaving_until=ago(-3))), True),
        ((a_pod(1), a_pod(2, is_deleting=True, ends_at=ago(-3))), (a_session(1), a_session(2, leaving_until=ago(-50))), True),
        ((a_pod(1), a_pod(2, is_deleting=True, ends_at=ago(-9))), (a_session(1), a_session(2, leaving_until=ago(-50))), False),
        ((a_pod(1), a_pod(2)), (a_session(1), a_session(2, leaving_until=ago(-53))), True),
        ((a_pod(1), a_pod(2)), (a_session(1), a_session(2, leaving_until=ago(-54))), False),
        ((a_pod(1), a_pod(2)), (a_session(1, **LOST_ITS_PEER), a_session(2)), True),
        ((a_pod(1), a_pod(2)), (a_session(1, **(LOST_ITS_PEER | {"failed_formation": 0, "formation": 0})), a_session(2)), False),
    ],
    ids=[
        "healthy",
        "a pod is gone",
        "a channel is lost for an hour",
        "all channels are lost",
        "a new operator has heard nobody",
        "a member leaves",
        "its deadline is near",
        "deleted with a shorter grace than was agreed",
        "deleted, and time is left",
        "told to end 7 s ago and not deleted: its node shuts down",
        "told to end 6 s ago and not deleted",
        "a worker ended",
        "an older formation's failure",
    ],
)
def test_a_formation_is_stopped_on_positive_evidence_only(pods, sessions, is_over) -> None:
    decision = decide(observed(pods=pods, sessions=sessions))
    assert decision.status.formation.is_over == is_over
    assert bool(orders(decision, Stop)) == (
        is_over and any(session.run.phase is MemberPhase.TRAINING for session in sessions if session.is_connected)
    )


def test_survivors_are_stopped_until_they_stopped() -> None:
    decision = decide(observed(pods=(a_pod(1),), sessions=(a_session(1),)))
    assert orders(decision, Stop) == {"pod-1": Stop(term=1, formation=1, why="bot-ab12-2 was lost: its pod is gone")}
    again = decide(observed(job=a_job(status=decision.status), pods=(a_pod(1),), sessions=(a_session(1),)))
    assert list(orders(again, Stop)) == ["pod-1"]
    obeyed = decide(observed(job=a_job(status=decision.status), pods=(a_pod(1),), sessions=(a_session(1, **STOPPED),)))
    assert obeyed.orders == ()


def test_a_leaving_member_trains_until_its_replacement_is_ready() -> None:
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3, uid="pod-3"))
    pods = (a_pod(1), a_pod(2, is_deleting=True), a_pod(3))
    leaves = a_session(2, leaving_until=ago(-30))
    seen = observed(job=a_job(status=training_status(members=members, last_serial=3)), pods=pods)
    waits = decide(replace(seen, sessions=(a_session(1), leaves, a_session(3, **PREPARING))))
    assert waits.status.formation.number == 1
    assert waits.orders == ()
    handed_over = decide(replace(seen, sessions=(a_session(1), leaves, a_session(3, **READY))))
    assert handed_over.status.formation.serials == (1, 3)
    assert list(orders(handed_over, Start)) == ["pod-1", "pod-3"]
    assert list(orders(handed_over, Stop)) == ["pod-2"]
    assert [record.reason for record in handed_over.status.recoveries] == ["bot-ab12-2 leaves; its replacement was ready first"]


def test_when_all_leave_the_last_state_is_committed_before_their_replacements_start() -> None:
    alone = training_status(members=(MemberEntry(serial=3, uid="pod-3"),), last_serial=3, formation=a_formation(serials=(1,)))
    pods = (a_pod(1, is_deleting=True), a_pod(3))
    leaves, ready = a_session(1, leaving_until=ago(-30), commit=state(1, 7)), a_session(3, **READY)
    saves = decide(observed(job=a_job(status=alone, nodes=(1, 1)), pods=pods, sessions=(leaves, ready)))
    assert (saves.status.formation.number, saves.status.formation.is_over) == (1, True)
    assert list(orders(saves, Stop)) == ["pod-1"]
    again = observed(job=a_job(status=saves.status, nodes=(1, 1)), pods=pods, sessions=(leaves, ready))
    assert decide(again).status.formation.number == 1
    done = decide(replace(again, sessions=(changed_session(leaves, commit=state(1, 10)), ready)))
    assert (done.status.formation.serials, done.status.formation.resume) == ((3,), state(1, 10))


@pytest.mark.parametrize(
    ("third", "grows"), [({}, True), (PREPARING, False), ({"is_connected": False}, False)], ids=["ready", "prepares", "cut off"]
)
def test_a_smaller_formation_grows_when_a_member_is_ready(third, grows) -> None:
    members = tuple(MemberEntry(serial=serial, uid=f"pod-{serial}") for serial in (1, 2, 3))
    job = a_job(status=training_status(members=members, last_serial=3), nodes=(2, 3))
    sessions = (a_session(1), a_session(2), a_session(3, **(READY | third)))
    decision = decide(observed(job=job, pods=(a_pod(1), a_pod(2), a_pod(3)), sessions=sessions))
    assert (decision.status.formation.number == 2) == grows
    assert decision.status.restarts.total == 0, "growing is no recovery"


def test_a_start_is_sent_again_until_it_is_obeyed() -> None:
    status = training_status(formation=a_formation(number=2, first_step_at=None, resumed_step=None), last_formation=2)
    obeyed = {"phase": MemberPhase.STARTING, "formation": 2}
    decision = decide(observed(job=a_job(status=status), sessions=(a_session(1, **obeyed), a_session(2, **STOPPED))))
    assert list(orders(decision, Start)) == ["pod-2"]
    both = decide(observed(job=a_job(status=status), sessions=(a_session(1, **obeyed), a_session(2, **obeyed))))
    assert both.orders == ()


def test_the_first_step_is_noted_once() -> None:
    status = training_status(formation=a_formation(first_step_at=None, resumed_step=None))
    decision = decide(observed(job=a_job(status=status)))
    assert decision.status.formation.first_step_at == NOW
    assert decision.status.formation.resumed_step == 0
    assert [event.reason for event in decision.events] == ["TrainingStarted"]
    assert decide(observed(job=a_job(status=decision.status))).events == ()


@pytest.mark.parametrize("phase", [MemberPhase.EXPORTING, MemberPhase.FINISHED])
def test_a_gang_that_exports_is_left_alone(phase) -> None:
    sessions = (a_session(1, phase=MemberPhase.EXPORTING), a_session(2, phase=phase, is_connected=False))
    decision = decide(observed(pods=(a_pod(1),), sessions=sessions))
    assert not decision.status.formation.is_over
    assert (decision.create, decision.orders) == ((), ())


def test_an_export_that_is_lost_is_done_again() -> None:
    decision = decide(observed(pods=(a_pod(2),), sessions=(a_session(1, phase=MemberPhase.EXPORTING, is_connected=False), a_session(2))))
    assert decision.status.formation.is_over
    assert decision.create == (3,)


def test_a_leaving_member_that_vanishes_before_its_replacement_is_ready_ends_the_formation() -> None:
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3, uid="pod-3"))
    job = a_job(status=training_status(members=members, last_serial=3))
    decision = decide(observed(job=job, pods=(a_pod(1), a_pod(3)), sessions=(a_session(1), a_session(3, **PREPARING))))
    assert decision.status.recoveries[-1].reason == "bot-ab12-2 was lost: its pod is gone"


def test_a_gang_that_exports_does_not_grow() -> None:
    members = tuple(MemberEntry(serial=serial, uid=f"pod-{serial}") for serial in (1, 2, 3))
    job = a_job(status=training_status(members=members, last_serial=3), nodes=(2, 3))
    sessions = (a_session(1, phase=MemberPhase.EXPORTING), a_session(2), a_session(3, **READY))
    decision = decide(observed(job=job, pods=(a_pod(1), a_pod(2), a_pod(3)), sessions=sessions))
    assert decision.status.formation.number == 1


NO_POD = None


@pytest.mark.parametrize(
    ("status", "second", "number"),
    [
        (training_status(), a_pending_pod(3, created_at=ago(60)), 1),
        (over_status(), a_pending_pod(3, created_at=ago(60)), 2),
        (over_status(), a_pending_pod(3, created_at=ago(20)), 1),
        (over_status(), NO_POD, 1),
        (over_status(placement=Placement(attempts=1, backoff_until=ago(-5), why="403 exceeded quota")), NO_POD, 2),
    ],
    ids=["while it trains with a leaving member", "no room for long", "no room yet", "not created yet", "refused"],
)
def test_an_elastic_gang_goes_on_smaller_only_when_it_must(status, second, number) -> None:
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3, uid=None if second is NO_POD else "pod-3"))
    job = a_job(status=status.model_copy(update={"members": members, "last_serial": 3}), nodes=(1, 2))
    pods = (a_pod(1), a_pod(2, is_deleting=True)) if second is NO_POD else (a_pod(1), a_pod(2, is_deleting=True), second)
    leaves = a_session(2, leaving_until=ago(-30))
    decision = decide(observed(job=job, pods=pods, sessions=(a_session(1), leaves)))
    assert decision.status.formation.number == number
    assert len(decision.status.formation.serials) == (2 if number == 1 else 1)


def test_a_victims_report_waits_a_moment_for_its_cause() -> None:
    seen = observed(sessions=(a_session(1, **LOST_ITS_PEER), a_session(2, **STOPPED)))
    first = decide(seen)
    assert first.status.formation.is_over
    assert first.status.formation.number == 1
    assert first.look_again_seconds == 1
    later = replace(seen, now=ago(-1), job=a_job(status=first.status))
    assert decide(later).status.formation.number == 2


def test_the_loss_of_a_member_explains_the_report_of_its_victim() -> None:
    seen = observed(sessions=(a_session(1, **LOST_ITS_PEER), a_session(2)))
    first = decide(seen).status
    assert first.recoveries[-1].failure_class == "Infrastructure"
    gone = replace(seen, job=a_job(status=first), pods=(a_pod(1),))
    amended = decide(gone).status
    assert amended.recoveries[-1].failure_class == "Disrupted"
    assert len(amended.recoveries) == 1


def test_the_cause_explains_the_report_of_its_victim_also_when_it_comes_later() -> None:
    seen = observed(sessions=(a_session(1, **LOST_ITS_PEER), a_session(2)))
    first = decide(seen).status
    killed = replace(seen, job=a_job(status=first), pods=(a_pod(1), a_pod(2, phase=PodPhase.FAILED, exit_code=137, is_oom_killed=True)))
    amended = decide(killed).status
    assert [(recovery.failure_class, recovery.member) for recovery in amended.recoveries] == [("OutOfMemory", "bot-ab12-2")]


@pytest.mark.parametrize("words", [None, FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="no zygote")])
@pytest.mark.parametrize("rest", [None, {"is_deleting": True}, {"is_deleting": True, "disruption": "DeletionByTaintManager"}])
def test_a_member_that_ended_by_itself_counts_as_a_crash_whatever_becomes_of_its_pod(words, rest) -> None:
    ended = {"phase": PodPhase.FAILED, "exit_code": 137, "last_words": words}
    seen = observed(sessions=(a_session(1), a_session(2, is_connected=False)), pods=(a_pod(1), a_pod(2, **ended)))
    first = decide(seen).status
    assert (first.recoveries[-1].failure_class, first.recoveries[-1].kind) == ("Infrastructure", "loss")
    left = (a_pod(1),) if rest is None else (a_pod(1), a_pod(2, **ended, **rest))
    listed = first.model_copy(update={"members": tuple(entry.model_copy(update={"uid": f"pod-{entry.serial}"}) for entry in first.members)})
    again = replace(seen, job=a_job(status=listed), pods=(*left, a_pod(3)), sessions=(a_session(1, **STOPPED), a_fresh_session(3)))
    later = decide(again).status
    assert (later.formation.number, later.restarts.crashes, later.restarts.disruptions) == (2, 1, 0)
    assert later.recoveries[-1].reason == first.recoveries[-1].reason


def test_a_member_that_was_taken_explains_one_that_ended_by_itself() -> None:
    ended, gone = a_pod(1, phase=PodPhase.FAILED, exit_code=137), a_pod(2, phase=PodPhase.FAILED, disruption="Evicted")
    status = decide(observed(sessions=(), pods=(ended, gone))).status
    assert (status.recoveries[-1].failure_class, status.recoveries[-1].member) == ("Disrupted", "bot-ab12-2")


def test_a_device_error_stays_one_when_its_member_is_taken_away_for_it() -> None:
    broken = a_recovery(
        failure_class="Infrastructure", reason="rank 1 on bot-ab12-2: device error: illegal memory access", member="bot-ab12-2"
    )
    seen = observed(job=a_job(status=over_status(recoveries=(broken,))), pods=(a_pod(1),), sessions=(a_session(1, **STOPPED),))
    assert [recovery.failure_class for recovery in decide(seen).status.recoveries] == ["Infrastructure"]
