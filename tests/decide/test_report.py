"""What people read: phase, conditions, columns, events; and when a pass writes nothing."""

from dataclasses import replace

import pytest
from tests.builders.observed import (
    NOW,
    a_formation,
    a_fresh_session,
    a_job,
    a_pending_pod,
    a_pod,
    a_session,
    ago,
    fresh,
    observed,
    over_status,
    placing_status,
    some_progress,
    training_status,
)

from finetune_contract.messages import MemberPhase
from finetune_contract.reports import SlowRank, StorageProblem, StorageState
from finetune_contract.state import StateId
from finetune_operator.api.status import Columns, Condition, ProgressEntry, Restarts, WarningEntry
from finetune_operator.decide.answers.answer import Phase
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase
from finetune_operator.decide.reporting.columns import columns, eta

STARTING = training_status(formation=a_formation(first_step_at=None, resumed_step=None))
NO_ROOM_AGAIN = observed(job=a_job(status=over_status()), pods=(a_pod(1), a_pending_pod(2)), sessions=(a_session(1),))
FETCHING = (a_fresh_session(1, inputs=None), a_fresh_session(2, inputs=None))
STARTS = {"phase": MemberPhase.STARTING}


def entry(**changes) -> ProgressEntry:
    told = some_progress(**changes).model_dump(exclude={"type", "formation"})
    return ProgressEntry(**told, updated_at=ago(1))


@pytest.mark.parametrize(
    ("seen", "phase", "reason"),
    [
        (fresh(), "Preparing", "Creating"),
        (observed(job=a_job(status=placing_status()), sessions=FETCHING), "Preparing", "Preparing"),
        (
            observed(job=a_job(status=placing_status()), pods=(a_pending_pod(1),), sessions=()),
            "Preparing",
            "Unschedulable",
        ),
        (observed(job=a_job(status=STARTING), sessions=(a_session(1, **STARTS), a_session(2, **STARTS))), "Starting", "Starting"),
        (observed(), "Training", "Training"),
        (observed(sessions=(a_session(1, phase=MemberPhase.EVALUATING), a_session(2))), "Evaluating", "Evaluating"),
        (observed(sessions=(a_session(1, phase=MemberPhase.EXPORTING), a_session(2))), "Exporting", "Exporting"),
        (observed(pods=(a_pod(1),)), "Recovering", "Creating"),
        (NO_ROOM_AGAIN, "Recovering", "Unschedulable"),
        (observed(pods=(a_pod(1), a_pod(2, waiting="ImagePullBackOff: x"))), "Training", "ContainerWaiting"),
    ],
    ids=[
        "new",
        "fetches",
        "no room",
        "starts",
        "trains",
        "evaluates",
        "exports",
        "lost a member",
        "lost and no room",
        "a container waits",
    ],
)
def test_the_phase_is_derived_from_what_is_seen(seen, phase, reason) -> None:
    status = decide(seen).status
    assert (status.phase, status.columns.reason) == (phase, reason)


@pytest.mark.parametrize("written", ["Complete", "Failed", "Queued", "", "Nonsense"])
def test_the_phase_is_never_read_back(written) -> None:
    status = training_status(phase=written)
    assert decide(observed(job=a_job(status=status))).status.phase == "Training"


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (fresh(), {"Reconciling": "True", "Stalled": "False", "Admitted": "True", "Running": "False", "Suspended": "False"}),
        (observed(), {"Reconciling": "False", "Ready": "True", "Running": "True", "Recovering": "False"}),
        (observed(pods=(a_pod(1),)), {"Ready": "True", "Running": "False", "Recovering": "True", "Stalled": "False"}),
        (
            observed(job=a_job(status=placing_status()), pods=(a_pod(1), a_pending_pod(2)), sessions=()),
            {"Admitted": "False", "Ready": "True", "Running": "False"},
        ),
        (observed(job=a_job(), pods=(), sessions=(), spec_errors=("bad",)), {"Failed": "True", "Stalled": "True", "Finished": "True"}),
        (observed(job=a_job(status=training_status(), suspend=True)), {"Suspended": "Unknown", "Admitted": "False"}),
        (observed(job=a_job(suspend=True), pods=(), sessions=()), {"Suspended": "True", "Admitted": "False", "Ready": "True"}),
    ],
    ids=["new", "trains", "recovers", "no room", "failed", "saves", "suspended"],
)
def test_conditions_are_derived_from_the_phase(seen, told) -> None:
    status = decide(seen).status
    found = {condition.type: condition.status for condition in status.conditions}
    assert {kind: found.get(kind) for kind in told} == told
    ends = {"Complete", "Failed", "Finished"} & set(found)
    assert bool(ends) == status.is_ended, "terminal conditions appear only when True"


AWAY = StorageState(problem=StorageProblem(reason="StorageUnavailable", message="no answer"))
COMMITTED = {"commit": StateId(formation=1, step=9)}


def checkpointed(state, reason="R") -> Condition:
    return Condition(type="Checkpointed", status=state, reason=reason, message="m", observed_generation=1, last_transition_time=ago(9))


@pytest.mark.parametrize(
    ("before", "saver", "other", "told"),
    [
        (None, {}, {}, ("Unknown", "NoCommitYet")),
        (None, COMMITTED, {}, ("True", "Committed")),
        (None, COMMITTED | {"storage": AWAY}, {}, ("False", "StorageUnavailable")),
        (None, COMMITTED, {"storage": AWAY}, ("True", "Committed")),
        (checkpointed("False", "StorageRefused"), COMMITTED, {}, ("False", "StorageRefused")),
        (checkpointed("False"), COMMITTED | {"storage": StorageState()}, {}, ("True", "Committed")),
        (checkpointed("False"), {"storage": StorageState()}, {}, ("Unknown", "NoCommitYet")),
    ],
    ids=["no commit yet", "commits", "store away", "only the saver counts", "silence takes nothing back", "back", "back before a commit"],
)
def test_checkpointed_is_what_node_rank_0_found_last(before, saver, other, told) -> None:
    status = training_status(conditions=() if before is None else (before,))
    seen = observed(job=a_job(status=status), sessions=(a_session(1, **saver), a_session(2, **other)))
    condition = decide(seen).status.condition("Checkpointed")
    assert (condition.status, condition.reason) == told


@pytest.mark.parametrize(
    ("before", "storage", "told"),
    [
        (None, AWAY, [("Warning", "StorageUnavailable")]),
        (checkpointed("True"), AWAY, [("Warning", "StorageUnavailable")]),
        (checkpointed("False", "StorageUnavailable"), AWAY, []),
        (checkpointed("False", "StorageRefused"), AWAY, [("Warning", "StorageUnavailable")]),
        (checkpointed("False", "StorageRefused"), None, []),
        (checkpointed("False", "StorageRefused"), StorageState(), [("Normal", "StorageUsable")]),
        (checkpointed("True"), StorageState(), []),
    ],
    ids=["first outage", "a later outage", "told before", "another trouble", "not tried", "over", "nothing new"],
)
def test_each_outage_of_the_store_and_its_end_is_an_event(before, storage, told) -> None:
    status = training_status(
        conditions=() if before is None else (before,),
        warnings=(WarningEntry(reason="StorageUnavailable", message="s3 is away", at=ago(9)),),
    )
    decision = decide(observed(job=a_job(status=status), sessions=(a_session(1, storage=storage), a_session(2))))
    assert [(event.type, event.reason) for event in decision.events if event.reason.startswith("Storage")] == told


def test_a_condition_keeps_its_transition_time_until_its_status_flips() -> None:
    old = Condition(type="Running", status="True", reason="Evaluating", message="", observed_generation=0, last_transition_time=ago(50))
    status = training_status(conditions=(old,))
    same = decide(observed(job=a_job(status=status))).status.condition("Running")
    assert (same.reason, same.last_transition_time, same.observed_generation) == ("Training", ago(50), 1)
    flipped = decide(observed(job=a_job(status=status), pods=(a_pod(1),))).status.condition("Running")
    assert (flipped.status, flipped.last_transition_time) == ("False", NOW)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, Columns(nodes="1/2", step="10/100", loss="1.5", eta="2m", restarts=3, reason="Why")),
        ({"progress": None}, Columns(nodes="1/2", restarts=3, reason="Why")),
        ({"phase": Phase.COMPLETE}, Columns(nodes="1/2", step="10/100", loss="1.5", eta="", restarts=3, reason="Why")),
        ({"phase": Phase.QUEUED}, Columns(nodes="1/2", step="10/100", loss="1.5", eta="", restarts=3, reason="Why")),
        ({"progress": entry(loss=0.000123456)}, Columns(nodes="1/2", step="10/100", loss="0.0001235", eta="2m", restarts=3, reason="Why")),
    ],
    ids=["trains", "before the first step", "ended", "waits", "a small loss"],
)
def test_columns_are_short_strings(changes, shown) -> None:
    told = {
        "phase": Phase.TRAINING,
        "reason": "Why",
        "num_ready": 1,
        "num_wanted": 2,
        "progress": entry(),
        "restarts": Restarts(disruptions=2, crashes=1),
    }
    assert columns(**(told | changes)) == shown


@pytest.mark.parametrize(
    ("left", "step_seconds", "words"),
    [(0, 1.0, "0s"), (89, 1.0, "89s"), (90, 1.0, "2m"), (59, 60.0, "59m"), (72, 60.0, "1h12m"), (50, 3600.0, "50h00m")],
)
def test_the_eta_is_a_duration_people_read(left, step_seconds, words) -> None:
    assert eta(entry(step=100 - left, step_seconds=step_seconds)) == words


def test_a_second_pass_over_the_same_world_writes_nothing() -> None:
    status = decide(observed()).status
    again = decide(observed(job=a_job(status=status)))
    assert again.status == status
    assert (again.create, again.delete, again.orders, again.events) == ((), (), (), ())


def after(seconds: float, **session):
    """A pass so long after the last write, in which node rank 0 said something new."""
    status = decide(observed()).status
    sessions = (a_session(1, **session), a_session(2))
    return status, replace(observed(job=a_job(status=status), sessions=sessions), now=ago(-seconds))


@pytest.mark.parametrize(
    ("seconds", "session", "is_written"),
    [
        (14, {"progress": some_progress(step=11)}, False),
        (15, {"progress": some_progress(step=11)}, True),
        (1, {"progress": some_progress(step=11), "phase": MemberPhase.EVALUATING}, True),
        (14, {"commit": StateId(formation=1, step=10)}, True),
        (20, {}, False),
    ],
    ids=["too soon", "it is time", "with a change of state", "the first commit", "nothing new"],
)
def test_progress_alone_is_written_at_most_every_15_s(seconds, session, is_written) -> None:
    status, seen = after(seconds, **session)
    decision = decide(seen)
    assert (decision.status != status) == is_written
    if not is_written and session:
        assert decision.look_again_seconds == 1


def test_the_newest_formations_progress_is_told() -> None:
    older = some_progress(step=40)
    sessions = (a_session(1, progress=some_progress(formation=2, step=31)), a_session(2, progress=older))
    assert decide(observed(sessions=sessions)).status.progress.step == 31


def test_only_the_first_few_warnings_of_a_kind_are_told() -> None:
    sessions = tuple(a_session(serial, warnings=(("CommitLate", f"step {serial} is late"),)) for serial in (1, 2, 3, 4, 5))
    decision = decide(observed(sessions=sessions))
    assert [entry.message for entry in decision.status.warnings] == [f"step {serial} is late" for serial in (1, 2, 3, 4)]
    assert decide(observed(job=a_job(status=decision.status), sessions=sessions)).status == decision.status


def test_a_warning_becomes_one_event() -> None:
    warned = a_session(1, warnings=(("StorageAway", "s3://ckpt cannot be reached"),))
    decision = decide(observed(sessions=(warned, a_session(2))))
    assert [(event.type, event.reason) for event in decision.events] == [("Warning", "StorageAway")]
    assert decide(observed(job=a_job(status=decision.status), sessions=(warned, a_session(2)))).events == ()


@pytest.mark.parametrize(("placed", "is_told"), [(59, False), (60, True)])
def test_a_member_without_a_container_is_named_with_what_it_mounts(placed, is_told) -> None:
    pods = (a_pod(1), a_pod(2, phase=PodPhase.PENDING, created_at=ago(600), placed_at=ago(placed)))
    job = a_job(status=placing_status(), storage={"secret_name": "s3"}, dataset={"uri": "pvc://rows/x.jsonl"})
    decision = decide(observed(job=job, pods=pods, sessions=(a_fresh_session(1),)))
    assert (decision.status.columns.reason == "NoContainer") == is_told
    if is_told:
        assert decision.status.condition("Ready").message == (
            "bot-ab12-2 has a node but no container; the image is still being pulled, or one of these is missing: "
            "PersistentVolumeClaim rows, Secret s3; see kubectl describe pod bot-ab12-2"
        )


@pytest.mark.parametrize(("created", "is_told"), [(59, False), (60, True)])
def test_a_member_that_never_reaches_us_is_named_with_advice(created, is_told) -> None:
    pods = (a_pod(1), a_pod(2, created_at=ago(created)))
    decision = decide(observed(job=a_job(status=placing_status()), pods=pods, sessions=(a_fresh_session(1),)))
    assert (decision.status.columns.reason == "MembersSilent") == is_told
    if is_told:
        assert decision.status.condition("Ready").message == (
            "bot-ab12-2 is running but never connected to the operator; check that pods of this namespace reach the Service "
            "finetune-channel and that no NetworkPolicy blocks them"
        )


def slow_rank(rank: int, **changes) -> SlowRank:
    return SlowRank(rank=rank, seconds=0.4, others_seconds=0.2, step_share=0.9).model_copy(update=changes)


def test_a_slow_rank_is_told_with_the_name_of_its_member_once_and_for_as_long_as_it_is_slow() -> None:
    job = a_job(status=training_status(), resources={"nodes": {"min": 2, "max": 2}, "processesPerNode": 4})
    seen = observed(job=job, sessions=(a_session(1, progress=some_progress(slowest=slow_rank(5))), a_session(2)))
    told = decide(seen)
    assert told.status.progress.straggler.member == job.member_name(2)
    (event,) = [event for event in told.events if event.reason == "Straggler"]
    assert event.message == (
        "bot-ab12-2 slows formation 1 down: rank 5 takes 2.0 times as long as the others for the same work "
        "(0.4 s a micro-batch, 90% of a step's time); training goes on"
    )
    later = some_progress(step=30, slowest=slow_rank(6, seconds=0.5))
    again = decide(replace(seen, job=replace_status(job, told.status), sessions=(a_session(1, progress=later), a_session(2)), now=ago(-20)))
    assert (again.status.progress.straggler.seconds, again.events) == (0.5, ())
    well = (a_session(1, progress=some_progress(step=50)), a_session(2))
    assert decide(replace(seen, job=replace_status(job, again.status), sessions=well, now=ago(-40))).status.progress.straggler is None


def test_a_straggler_of_an_older_formation_or_without_a_member_is_not_told() -> None:
    for slow in (some_progress(formation=0, slowest=slow_rank(1)), some_progress(slowest=slow_rank(2))):
        assert decide(observed(sessions=(a_session(1, progress=slow), a_session(2)))).status.progress.straggler is None


def test_a_straggler_that_comes_and_goes_makes_no_further_writes() -> None:
    told = decide(observed(sessions=(a_session(1, progress=some_progress(slowest=slow_rank(1))), a_session(2)))).status
    gone = (a_session(1, progress=some_progress(step=11)), a_session(2))
    assert decide(replace(observed(job=a_job(status=told), sessions=gone), now=ago(-14))).status == told


def replace_status(job, status):
    return job.model_copy(update={"status": status})
