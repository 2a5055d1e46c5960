"""Sessions: what agents said, merged without losing or inventing anything."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from tests.builders.observed import a_formation, a_job, observed, training_status

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import Failed, Hello, Leaving, MemberPhase, PhaseChanged, Probed
from finetune_contract.reports import Committed, Output, Progress, StorageProblem, StorageState, Warned
from finetune_contract.state import InputDigests, StateId
from finetune_operator.coordinator.sessions import SessionTable, greet, hear
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import RunFacts, Session

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1 = T0 + timedelta(seconds=5)


def hello(uid: str = "m1", **changes) -> Hello:
    healthy = {
        "member_uid": uid,
        "job_uid": "job",
        "address": "10.0.0.1",
        "port": 29500,
        "num_devices": 1,
        "contract_version": 1,
        "oldest_contract_version": 1,
        "phase": MemberPhase.TRAINING,
        "formation": 2,
        "term": 1,
    }
    return Hello(**healthy | changes)


def progress(step: int, formation: int = 2) -> Progress:
    return Progress(
        formation=formation,
        step=step,
        total_steps=100,
        epoch=0.1,
        loss=1.0,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_total=step * 10,
        tokens_per_second=5.0,
        step_seconds=2.0,
    )


def state(step: int, formation: int = 2) -> StateId:
    return StateId(formation=formation, step=step)


AWAY = StorageState(problem=StorageProblem(reason="StorageUnavailable", message="no answer"))
BAD = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="peer lost")


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (PhaseChanged(phase=MemberPhase.STOPPED, formation=2), "phase", MemberPhase.STOPPED),
        (PhaseChanged(phase=MemberPhase.STARTING, formation=3), "formation", 3),
        (PhaseChanged(phase=MemberPhase.STOPPED, formation=1), "formation", 2),
        (PhaseChanged(phase=MemberPhase.TRAINING, formation=2, resumed_step=40), "resumed_step", 40),
        (PhaseChanged(phase=MemberPhase.STOPPED, formation=2, snapshot=state(9)), "snapshot", state(9)),
        (PhaseChanged(phase=MemberPhase.STOPPED, formation=2, snapshot=state(99, 1)), "snapshot", state(5)),
        (
            PhaseChanged(phase=MemberPhase.READY, formation=0, inputs=InputDigests(model="a", dataset="b")),
            "inputs",
            InputDigests(model="a", dataset="b"),
        ),
        (
            PhaseChanged(phase=MemberPhase.FINISHED, formation=2, output=Output(uri="s3://b/p", sha256="0", num_bytes=1, step=100)),
            "output",
            Output(uri="s3://b/p", sha256="0", num_bytes=1, step=100),
        ),
        (progress(7), "progressed_at", T1),
        (Committed(state=state(6), key="k", num_bytes=3, seconds=0.1), "commit_key", "k"),
        (Committed(state=state(1), key="old", num_bytes=3, seconds=0.1), "commit", state(4)),
        (Failed(formation=2, report=BAD), "failed_formation", 2),
        (Leaving(seconds=30), "leaving_until", T1 + timedelta(seconds=30)),
        (Probed(peer_uid="m2", reachable=False), "unreachable_peers", frozenset({"m2"})),
        (Warned(reason="IdleRanks", message="rank 1"), "warnings", (("IdleRanks", "rank 1"),)),
        (AWAY, "storage", AWAY),
        (StorageState(), "storage", StorageState()),
    ],
)
def test_a_message_changes_its_own_part_of_the_session(message, field, value) -> None:
    before = greet(hello(snapshot=state(5), commit=state(4)), None, T0)
    after = hear(before, message, T1)
    assert getattr(after.run if hasattr(after.run, field) else after, field) == value


def test_a_session_holds_everything_that_a_hello_and_a_session_both_know() -> None:
    said = hello(probe_port=4711, snapshot=state(5), commit=state(4), storage=AWAY)
    session = greet(said, None, T0)
    for part, known in ((session, {"probe_port", "port", "address"}), (session.run, {"snapshot", "inputs", "storage"})):
        shared = set(Hello.model_fields) & {field.name for field in fields(part)}
        assert known <= shared
        assert {name: getattr(part, name) for name in shared} == {name: getattr(said, name) for name in shared}


def test_no_fact_is_one_of_the_member_and_of_the_run() -> None:
    assert not {field.name for field in fields(Session)} & {field.name for field in fields(RunFacts)}


def test_doubled_messages_change_nothing() -> None:
    once = hear(greet(hello(), None, T0), progress(7), T1)
    assert hear(once, progress(7), T1) == once
    warned = hear(once, Warned(reason="R", message="m"), T1)
    assert hear(warned, Warned(reason="R", message="m"), T1) == warned


def test_a_member_that_prepares_tells_since_when_a_store_is_away() -> None:
    away = Warned(reason="StorageUnavailable", message="spec.model.uri: no such host")
    session = greet(hello(phase=MemberPhase.PREPARING), None, T0)
    for seconds in (0, 60, 130, 250):
        session = hear(session, away, T0 + timedelta(seconds=seconds))
        assert (session.run.store_away_since, session.run.store_away_at) == (T0, T0 + timedelta(seconds=seconds))
    session = greet(hello(phase=MemberPhase.PREPARING), session, T0 + timedelta(seconds=300))
    assert hear(session, away, T0 + timedelta(seconds=310)).run.store_away_since == T0
    later = T0 + timedelta(seconds=500)
    assert hear(session, away, later).run.store_away_since == later, "it answered in between"
    assert hear(greet(hello(phase=MemberPhase.TRAINING), None, T0), away, T1).run.store_away_since is None


def test_news_about_rows_change_the_status_of_a_job_every_ten_seconds_whatever_number_of_members_tells_them() -> None:
    table, told, status = SessionTable(), set(), training_status(formation=a_formation(first_step_at=None))
    uids = ("pod-1", "pod-2")
    for uid in uids:
        table.greet(hello(member_uid=uid, phase=MemberPhase.STARTING, formation=1), T0)
    for tenth in range(600):
        uid, now = uids[tenth % 2], T0 + timedelta(seconds=tenth / 10)
        rows = tenth if tenth % 7 else None
        table.hear(uid, PhaseChanged(phase=MemberPhase.STARTING, formation=1, rows_done=rows, rows_total=9999), now)
        seen = observed(job=a_job(status=status), sessions=table.of_job("job"))
        status = decide(seen).status
        told.add(status.condition("Ready").message)
    assert 5 <= len(told) <= 7
    assert all(session.run.rows_done > 400 for session in table.of_job("job") if session.run.rows_done is not None)


def test_news_about_rows_that_waited_are_taken_with_the_next() -> None:
    table = SessionTable()
    for uid in ("m1", "m2"):
        table.greet(hello(member_uid=uid, phase=MemberPhase.STARTING, formation=1), T0)

    def tell(uid: str, rows: int, seconds: float) -> list[int | None]:
        message = PhaseChanged(phase=MemberPhase.STARTING, formation=1, rows_done=rows)
        table.hear(uid, message, T0 + timedelta(seconds=seconds))
        return [session.run.rows_done for session in table.of_job("job")]

    assert tell("m1", 10, 0) == [10, None]
    assert tell("m2", 7, 1) == [10, None]
    assert tell("m2", 8, 2) == [10, None]
    assert tell("m1", 20, 15) == [20, 8]
    table.hear("m1", PhaseChanged(phase=MemberPhase.TRAINING, formation=1), T0 + timedelta(seconds=16))
    assert [session.run.rows_done for session in table.of_job("job")] == [None, 8]


def test_an_older_step_does_not_turn_progress_back() -> None:
    ahead = hear(greet(hello(), None, T0), progress(7), T0)
    assert hear(ahead, progress(3, formation=1), T1).run.progress == progress(7)


def test_the_evaluation_of_a_step_is_taken_and_is_no_new_step() -> None:
    trained = hear(greet(hello(), None, T0), progress(7), T0)
    evaluated = hear(trained, progress(7).model_copy(update={"eval_loss": 1.25}), T1)
    assert evaluated.run.progress.eval_loss == 1.25
    assert evaluated.run.progressed_at == T0


def test_a_new_formation_may_start_at_an_older_step() -> None:
    ahead = hear(greet(hello(), None, T0), progress(7), T0)
    assert hear(ahead, progress(3, formation=3), T1).run.progress == progress(3, formation=3)


def test_a_hello_again_keeps_when_progress_was_made_and_what_the_hello_cannot_say() -> None:
    first = hear(greet(hello(), None, T0), progress(7), T0)
    first = hear(first, Committed(state=state(6), key="k", num_bytes=3, seconds=0.1), T0)
    again = greet(hello(progress=progress(7), commit=state(6)), first, T1)
    assert (again.run.progressed_at, again.run.commit_key, again.run.commit_num_bytes) == (T0, "k", 3)
    assert again.changed_at == T1


def test_the_same_words_about_a_newer_formation_are_a_new_failure() -> None:
    failed = hear(greet(hello(), None, T0), Failed(formation=2, report=BAD), T0)
    assert greet(hello(formation=3, failure=BAD, failed_formation=2), failed, T1).run.failed_formation == 2
    assert greet(hello(formation=3, failure=BAD, failed_formation=3), failed, T1).run.failed_formation == 3


def test_a_lost_connection_keeps_the_session_until_it_is_forgotten() -> None:
    table = SessionTable()
    table.greet(hello(), T0)
    table.disconnect("m1", T1)
    (session,) = table.of_job("job")
    assert (session.is_connected, session.changed_at, session.run.phase) == (False, T1, MemberPhase.TRAINING)
    table.forget("m1")
    assert table.of_job("job") == ()
    assert table.job_uids() == ()


def test_a_member_that_is_back_is_no_longer_called_unreachable() -> None:
    table = SessionTable()
    table.greet(hello("m1"), T0)
    table.greet(hello("m2"), T0)
    table.hear("m1", Probed(peer_uid="m2", reachable=False), T0)
    table.greet(hello("m2"), T1)
    assert all(not session.unreachable_peers for session in table.of_job("job"))


def test_a_message_after_forget_brings_nothing_back() -> None:
    table = SessionTable()
    table.greet(hello(), T0)
    table.forget("m1")
    table.hear("m1", progress(1), T1)
    table.disconnect("m1", T1)
    assert table.of_job("job") == ()


def test_a_phase_that_is_said_again_keeps_its_beginning_and_another_has_its_own() -> None:
    session = greet(hello(), None, T0)
    assert hear(session, PhaseChanged(phase=MemberPhase.TRAINING, formation=2), T1).run.phase_at == T0
    assert hear(session, PhaseChanged(phase=MemberPhase.EVALUATING, formation=2), T1).run.phase_at == T1
    assert hear(session, PhaseChanged(phase=MemberPhase.TRAINING, formation=3), T1).run.phase_at == T1
    assert greet(hello(), session, T1).run.phase_at == T0
    assert greet(hello(phase=MemberPhase.STOPPED), session, T1).run.phase_at == T1
    assert greet(hello(formation=3), session, T1).run.phase_at == T1


def test_what_is_known_of_a_formation_ends_with_it() -> None:
    said = PhaseChanged(phase=MemberPhase.TRAINING, formation=2, resumed_step=40, first_step_seconds=1.5)
    session = hear(greet(hello(), None, T0), said, T0)
    again = hear(session, PhaseChanged(phase=MemberPhase.EVALUATING, formation=2), T1)
    assert (again.run.resumed_step, again.run.first_step_seconds) == (40, 1.5)
    following = hear(session, PhaseChanged(phase=MemberPhase.STARTING, formation=3), T1)
    assert (following.run.resumed_step, following.run.first_step_seconds) == (None, None)
    back, other = greet(hello(), session, T1), greet(hello(formation=3), session, T1)
    assert (back.run.resumed_step, back.run.first_step_seconds) == (40, 1.5)
    assert (other.run.resumed_step, other.run.first_step_seconds) == (None, None)


def test_a_hello_is_heard_as_a_greeting_and_warnings_and_peers_outlive_it() -> None:
    session = hear(greet(hello(), None, T0), Warned(reason="R", message="m"), T0)
    session = hear(session, Probed(peer_uid="m2", reachable=False), T0)
    again = hear(session, hello(term=4), T1)
    assert (again.term, again.run.warnings, again.unreachable_peers) == (4, (("R", "m"),), frozenset({"m2"}))


def test_a_hello_with_another_commit_says_nothing_of_its_key() -> None:
    session = hear(greet(hello(), None, T0), Committed(state=state(6), key="k", num_bytes=3, seconds=0.1), T0)
    other = greet(hello(commit=state(7)), session, T1)
    assert (other.run.commit, other.run.commit_key, other.run.commit_num_bytes) == (state(7), None, None)
    assert greet(hello(), greet(hello(), None, T0), T1).run.commit_key is None


def test_a_hello_with_a_newer_step_is_progress_and_with_an_older_one_is_none() -> None:
    session = hear(greet(hello(), None, T0), progress(7), T0)
    newer, older = greet(hello(progress=progress(8)), session, T1), greet(hello(progress=progress(3)), session, T1)
    assert (newer.run.progress.step, newer.run.progressed_at) == (8, T1)
    assert (older.run.progress.step, older.run.progressed_at) == (7, T0)
    assert greet(hello(), None, T0).run.progressed_at is None


def test_a_commit_that_comes_with_a_phase_is_taken_if_it_is_newer() -> None:
    session = hear(greet(hello(), None, T0), Committed(state=state(6), key="k", num_bytes=3, seconds=0.1), T0)
    newer = hear(session, PhaseChanged(phase=MemberPhase.STOPPED, formation=2, commit=state(9)), T1)
    assert (newer.run.commit, newer.run.commit_key, newer.run.commit_num_bytes) == (state(9), None, None)
    for known in (state(6), state(2), None):
        same = hear(session, PhaseChanged(phase=MemberPhase.STOPPED, formation=2, commit=known), T1)
        assert (same.run.commit, same.run.commit_key, same.run.commit_num_bytes) == (state(6), "k", 3)


def test_a_peer_that_answers_is_reached_again_and_the_same_answer_changes_nothing() -> None:
    session = greet(hello(), None, T0)
    assert hear(session, Probed(peer_uid="m2", reachable=True), T1) is session
    away = hear(hear(session, Probed(peer_uid="m2", reachable=False), T0), Probed(peer_uid="m3", reachable=False), T0)
    assert hear(away, Probed(peer_uid="m2", reachable=False), T1) is away
    assert hear(away, Probed(peer_uid="m2", reachable=True), T1).unreachable_peers == {"m3"}


def test_the_newest_ten_warnings_are_kept() -> None:
    session = greet(hello(), None, T0)
    for number in range(12):
        session = hear(session, Warned(reason="R", message=str(number)), T0)
    assert [message for _, message in session.run.warnings] == [str(number) for number in range(2, 12)]


def test_a_table_knows_members_by_job_and_forgets_who_spoke_of_them() -> None:
    table = SessionTable()
    for uid, job_uid in (("m1", "job"), ("m2", "job"), ("x1", "other")):
        table.greet(hello(uid, job_uid=job_uid), T0)
    assert ([one.member_uid for one in table.of_job("job")], set(table.job_uids())) == (["m1", "m2"], {"job", "other"})
    assert (table.of_job("nobody"), table.num_connected()) == ((), 3)
    table.hear("m1", Probed(peer_uid="x1", reachable=False), T0)
    assert table.get("m1").unreachable_peers == frozenset(), "a uid of another job is not kept"
    table.hear("m1", Probed(peer_uid="m2", reachable=False), T0)
    assert table.get("m1").unreachable_peers == {"m2"}
    table.disconnect("m2", T1)
    assert table.num_connected() == 2
    table.forget("m2")
    assert table.get("m1").unreachable_peers == frozenset()
    assert (set(table.job_uids()), table.get("m2")) == ({"job", "other"}, None)
    table.forget("x1")
    assert table.job_uids() == ("job",)
