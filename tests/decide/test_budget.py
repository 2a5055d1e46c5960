"""What a restart costs: budgets, the out-of-memory ladder, not-finite replays, and the record of each recovery."""

import pytest
from tests.builders.observed import (
    NOW,
    a_formation,
    a_fresh_session,
    a_job,
    a_pod,
    a_recovery,
    a_session,
    ago,
    gang_of,
    observed,
    over_status,
    some_progress,
    training_status,
)

from finetune_contract.failures import FailureClass, FailureKind, FailureReport
from finetune_contract.messages import MemberPhase
from finetune_contract.state import StateId
from finetune_operator.api.status import MemberEntry, PinnedOverrides, ProgressEntry, Restarts
from finetune_operator.decide.chain import decide
from finetune_operator.decide.recovering.remedy import remedy_for, remedy_outside
from finetune_operator.decide.recovering.trouble import Trouble

PROGRESSED, STUCK = a_formation(furthest_step=4), a_formation(furthest_step=10)


def trouble(failure_class: str) -> Trouble:
    return Trouble(failure_class=FailureClass(failure_class), kind=FailureKind.CAUSE, message="it broke", member="bot-ab12-1")


def gang(*, formation=STUCK, restarts=None, overrides=None, spec=None, recoveries=()):
    """The formation has reported step 10."""
    pinned = training_status().pinned.model_copy(update={"overrides": overrides or PinnedOverrides()})
    status = training_status(formation=formation, restarts=restarts or Restarts(), pinned=pinned, recoveries=recoveries)
    told = {"formation": formation.number, "progress": some_progress(formation=formation.number)}
    return gang_of(observed(job=a_job(status=status, **(spec or {})), sessions=(a_session(1, **told), a_session(2, **told))))


@pytest.mark.parametrize(
    ("failure_class", "formation", "restarts"),
    [
        ("Disrupted", STUCK, Restarts(disruptions=1, crashes=2, crashes_without_progress=1)),
        ("Infrastructure", PROGRESSED, Restarts(crashes=3, crashes_without_progress=0)),
        ("Infrastructure", STUCK, Restarts(crashes=3, crashes_without_progress=2)),
        ("Infrastructure", a_formation(resumed_step=10), Restarts(crashes=3, crashes_without_progress=2)),
        ("Hang", STUCK, Restarts(crashes=3, crashes_without_progress=2)),
        ("Internal", STUCK, Restarts(crashes=3, crashes_without_progress=2)),
        ("UserError", STUCK, Restarts(crashes=2, crashes_without_progress=1)),
    ],
    ids=["disruption", "crash with progress", "crash without", "crash at the resumed step", "hang", "internal", "user error"],
)
def test_only_crashes_without_progress_use_up_the_budget(failure_class, formation, restarts) -> None:
    before = Restarts(crashes=2, crashes_without_progress=1)
    assert remedy_for(gang(formation=formation, restarts=before), trouble(failure_class)).restarts == restarts


@pytest.mark.parametrize(
    ("failure_class", "before", "formation", "is_hopeless"),
    [
        ("Infrastructure", 1, STUCK, False),
        ("Infrastructure", 2, STUCK, True),
        ("Infrastructure", 2, PROGRESSED, False),
        ("Disrupted", 99, STUCK, False),
        ("Hang", 2, STUCK, True),
        ("UserError", 0, PROGRESSED, True),
    ],
    ids=["budget left", "budget used up", "progress", "disruptions never count", "hang", "user error"],
)
def test_a_job_fails_when_its_budget_is_used_up(failure_class, before, formation, is_hopeless) -> None:
    remedy = remedy_for(gang(formation=formation, restarts=Restarts(crashes_without_progress=before)), trouble(failure_class))
    assert (remedy.hopeless is not None) == is_hopeless


def test_a_used_up_budget_names_its_field_and_the_last_crash() -> None:
    remedy = remedy_for(gang(restarts=Restarts(crashes_without_progress=2)), trouble("Internal"))
    assert remedy.hopeless == "3 crashes without a new finished step (restartPolicy.maxCrashesWithoutProgress); the last crash: it broke"


def test_progress_of_a_formation_does_not_excuse_a_member_that_crashes_before_it_takes_part() -> None:
    remedy = remedy_outside(gang(formation=PROGRESSED, restarts=Restarts(crashes_without_progress=2)), trouble("Internal"))
    assert remedy.hopeless is not None


@pytest.mark.parametrize(("formation", "left"), [(PROGRESSED, 0), (STUCK, 2)], ids=["progress", "no progress"])
def test_progress_forgives_the_crashes_before_it(formation, left) -> None:
    status = training_status(formation=formation, restarts=Restarts(crashes=2, crashes_without_progress=2))
    decision = decide(observed(job=a_job(status=status)))
    assert decision.status.restarts == Restarts(crashes=2, crashes_without_progress=left)


WITHOUT_CHECKPOINTING = {"training": {"gradient_checkpointing": False, "max_sequence_length": 2048}}
WITH_CHECKPOINTING = {"training": {"gradient_checkpointing": True, "max_sequence_length": 2048}}


@pytest.mark.parametrize(
    ("spec", "overrides", "after"),
    [
        (WITHOUT_CHECKPOINTING, {}, {"gradient_checkpointing": True}),
        (WITHOUT_CHECKPOINTING, {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "pack_tokens": 1024}),
        (WITH_CHECKPOINTING, {}, {"pack_tokens": 1024}),
        (WITH_CHECKPOINTING, {"pack_tokens": 1024}, None),
    ],
    ids=["recompute first", "then half the micro-batch", "recomputes already", "nothing is left"],
)
def test_out_of_memory_goes_down_a_ladder(spec, overrides, after) -> None:
    remedy = remedy_for(gang(spec=spec, overrides=PinnedOverrides(**overrides)), trouble("OutOfMemory"))
    if after is None:
        advice = "less memory per step did not help: lower training.maxSequenceLength or adapter.rank, or raise resources.limits"
        assert remedy.hopeless == f"it broke; {advice}"
    else:
        assert remedy.overrides == PinnedOverrides(**after)
        assert remedy.hopeless is None


def test_the_ladder_is_kept_in_status_by_the_next_formation() -> None:
    record = a_recovery(failure_class="OutOfMemory", reason="out of memory", member="bot-ab12-1")
    ready = (a_session(1, phase=MemberPhase.STOPPED), a_session(2, phase=MemberPhase.STOPPED))
    decision = decide(observed(job=a_job(status=over_status(recoveries=(record,))), sessions=ready))
    assert decision.status.pinned.overrides == PinnedOverrides(pack_tokens=1024)
    assert decision.orders[0].order.overrides.pack_tokens == 1024


@pytest.mark.parametrize(
    ("formation", "recoveries", "is_hopeless"),
    [
        (a_formation(number=2, furthest_step=10), (), False),
        (a_formation(number=2, furthest_step=10), (a_recovery(failure_class="NotFinite"),), True),
        (a_formation(number=2, furthest_step=10), (a_recovery(failure_class="Disrupted"),), False),
        (a_formation(number=3, furthest_step=10), (a_recovery(failure_class="NotFinite"),), False),
        (a_formation(number=2, furthest_step=4), (a_recovery(failure_class="NotFinite"),), False),
    ],
    ids=["once: replay", "twice", "another reason before", "long ago", "a step was made in between"],
)
def test_a_loss_that_is_not_finite_is_replayed_once(formation, recoveries, is_hopeless) -> None:
    remedy = remedy_for(gang(formation=formation, recoveries=recoveries), trouble("NotFinite"))
    assert (remedy.hopeless is not None) == is_hopeless


def test_a_recovery_is_begun_by_the_trouble() -> None:
    decision = decide(observed(pods=(a_pod(1),), sessions=(a_session(1, progressed_at=ago(2)),)))
    record = decision.status.recoveries[-1]
    assert (record.formation, record.failure_class, record.at, record.detect_seconds) == (1, "Disrupted", NOW, 2.0)
    assert record.total_seconds is None


def test_a_recovery_is_completed_by_the_first_new_step_with_its_phases() -> None:
    begun = a_formation(number=2, ordered_at=ago(3), first_step_at=None, resumed_step=None, furthest_step=12)
    status = training_status(formation=begun, last_formation=2, recoveries=(a_recovery(at=ago(10), detect_seconds=1.0),))
    fresh = some_progress(formation=2, step=11)
    told = {"formation": 2, "resumed_step": 10, "first_step_seconds": 0.5}
    sessions = (a_session(1, progress=fresh, **told), a_session(2, **told))
    decision = decide(observed(job=a_job(status=status), sessions=sessions))
    record = decision.status.recoveries[-1]
    assert (record.resumed_step, record.lost_steps) == (10, 2)
    assert (record.start_seconds, record.first_step_seconds, record.total_seconds) == (2.5, 0.5, 10.0)
    assert decision.status.restarts.lost_steps == 2
    assert [event.message for event in decision.events] == ["formation 2: resumed from step 10 on 2 members"]


@pytest.mark.parametrize(
    ("stopped", "hello", "expected"),
    [(9, 6, (1.0, 3.0, 6.0)), (9, 60, (1.0, 0.0, 9.0)), (20, 60, (0.0, 0.0, 10.0)), (2, 6, (8.0, 0.0, 2.0))],
    ids=["one after the other", "a spare was there", "stopped before it was noticed", "there before the others stopped"],
)
def test_an_order_completes_the_record_with_what_was_waited_for(stopped, hello, expected) -> None:
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3, uid="pod-3"))
    status = over_status(members=members, last_serial=3, recoveries=(a_recovery(at=ago(10)),))
    sessions = (a_session(1, phase=MemberPhase.STOPPED, phase_at=ago(stopped)), a_fresh_session(3, changed_at=ago(hello)))
    record = decide(observed(job=a_job(status=status), pods=(a_pod(1), a_pod(3)), sessions=sessions)).status.recoveries[-1]
    assert (record.stop_seconds, record.replace_seconds, record.prepare_seconds) == expected


def test_a_replay_of_a_step_that_was_not_finite_rotates_the_ranks_and_names_the_suspect() -> None:
    record = a_recovery(failure_class="NotFinite", reason="rank 1 on bot-ab12-2: step 11: loss nan", member="bot-ab12-2")
    stopped = (a_session(1, phase=MemberPhase.STOPPED), a_session(2, phase=MemberPhase.STOPPED))
    replayed = decide(observed(job=a_job(status=over_status(recoveries=(record,))), sessions=stopped)).status
    assert replayed.formation.serials == (2, 1)
    told = {"formation": 2, "resumed_step": 10}
    sessions = (a_session(1, **told), a_session(2, **told, progress=some_progress(formation=2, step=11)))
    decision = decide(observed(job=a_job(status=replayed), sessions=sessions))
    suspects = [event.message for event in decision.events if event.reason == "SuspectHardware"]
    assert [message.partition(":")[0] for message in suspects] == ["bot-ab12-2"]


def test_a_loss_that_is_not_finite_is_put_down_to_the_member_whose_rank_made_it() -> None:
    report = FailureReport(failure_class=FailureClass.NOT_FINITE, message="step 11: loss nan", rank=1)
    failed = {"phase": MemberPhase.FAILED, "failure": report, "failed_formation": 1}
    record = decide(observed(sessions=(a_session(1, **failed), a_session(2, **failed)))).status.recoveries[-1]
    assert (record.failure_class, record.member) == ("NotFinite", "bot-ab12-2")


def test_the_last_ten_recoveries_are_kept() -> None:
    records = tuple(a_recovery(formation=number) for number in range(1, 11))
    entry = a_formation(number=11)
    status = training_status(formation=entry, last_formation=11, recoveries=records)
    decision = decide(observed(job=a_job(status=status), pods=(a_pod(1),), sessions=(a_session(1, formation=11),)))
    assert [record.formation for record in decision.status.recoveries] == list(range(2, 12))


def test_the_furthest_step_is_not_forgotten_by_a_formation_that_did_not_reach_it() -> None:
    entry = a_formation(number=2, furthest_step=40, is_over=True, over_at=ago(5))
    written = ProgressEntry(**some_progress(step=30).model_dump(exclude={"type", "formation"}), updated_at=ago(1))
    status = over_status(formation=entry, last_formation=2, progress=written, recoveries=(a_recovery(formation=2),))
    held = {"formation": 2, "snapshot": StateId(formation=2, step=30)}
    decision = decide(observed(job=a_job(status=status), sessions=(a_fresh_session(1, **held), a_fresh_session(2, **held))))
    assert decision.status.formation.furthest_step == 40


def test_a_crash_report_names_the_worker_in_an_event() -> None:
    killed = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="killed by SIGKILL", rank=1, signal="SIGKILL")
    crashed = a_session(2, phase=MemberPhase.FAILED, failure=killed, failed_formation=1)
    decision = decide(observed(sessions=(a_session(1), crashed)))
    assert [(event.reason, event.message) for event in decision.events][:1] == [
        ("WorkerFailed", "Infrastructure: rank 1 on bot-ab12-2: killed by SIGKILL")
    ]
