"""Whatever parses as a message can be carried: by a session, by a decision, by the status that is written."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.builders.fuzz import JSON, fuzz, replaced
from tests.builders.observed import observed, uid_of
from tests.builders.texts import texts
from tests.contract.absurd import ABSURD, FAILURE, FINISHED, HELLO, HONEST, ODD, PROBED, PROGRESS

from finetune_contract.bounds import MAX_COUNT
from finetune_contract.failures import FailureReport
from finetune_contract.messages import FromAgent, Hello, parse_from_agent
from finetune_contract.reasons import STORAGE_REASONS, WARNING_REASONS
from finetune_contract.values import render_message
from finetune_operator.coordinator.sessions import SessionTable
from finetune_operator.decide.answers.decision import Decision
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import Session
from finetune_operator.job_values import job_values, newest_reading, spent_seconds
from finetune_operator.reconcile.notes import JobNotes

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def frame_of(message: dict[str, Any]) -> str:
    return json.dumps(message)


def carry(*messages: FromAgent) -> Decision:
    """Through the session of node rank 0, a pass, and everything that is written or shown of it."""
    table = SessionTable()
    for serial in (1, 2):
        table.greet(parse_from_agent(frame_of(HELLO | {"member_uid": uid_of(serial)})), NOW)
    for message in messages:
        if isinstance(message, Hello):
            table.greet(message.model_copy(update={"member_uid": uid_of(1), "job_uid": HELLO["job_uid"]}), NOW)
        else:
            table.hear(uid_of(1), message, NOW)
    sessions = table.of_job(HELLO["job_uid"])
    away = tuple(replace(session, is_connected=False) for session in sessions)
    for some in ((*away[:1], *sessions[1:]), (*sessions[:1], *away[1:]), sessions):
        term = JobNotes().term_for(1, some, NOW + timedelta(seconds=9))
        decision = decide(observed(sessions=some, term=term))
        write(decision, some)
    return decision


def write(decision: Decision, sessions: tuple[Session, ...]) -> None:
    """Everything that a pass writes, sends or shows."""
    assert decision.status is not None
    json.dumps(decision.status.model_dump(mode="json", by_alias=True), allow_nan=False)
    type(decision.status).model_validate(decision.status.model_dump())
    for order in decision.orders:
        json.loads(render_message(order.order))
    json.dumps([(event.reason, event.message) for event in decision.events])
    shown = job_values(decision.status, newest_reading(decision.status, sessions), 0, spent_seconds(decision.status, NOW))
    assert all(value is None or value == value for value in shown.values())


@pytest.mark.parametrize("message", ABSURD.values(), ids=ABSURD.keys())
def test_an_absurd_value_is_refused(message) -> None:
    with pytest.raises(ValidationError) as refusal:
        parse_from_agent(frame_of(message))
    assert "etc/passwd" not in str(refusal.value)
    assert "not a digest" not in str(refusal.value)


@pytest.mark.parametrize("message", [*HONEST, *ODD.values()], ids=[*(one["type"] for one in HONEST), *ODD.keys()])
def test_what_is_only_odd_is_taken_and_carried(message) -> None:
    carry(parse_from_agent(frame_of(message)))


def test_an_evaluation_that_is_not_finite_is_null() -> None:
    """An honest trainer whose held-out loss is NaN: the job goes on, and its status can be written."""
    told = parse_from_agent(frame_of(PROGRESS | {"eval_loss": float("nan"), "first_loss": float("inf")}))
    assert (told.eval_loss, told.first_loss, told.loss) == (None, None, 1.5)
    status = carry(told).status
    assert status.progress.step == 20
    assert status.progress.eval_loss is None


def test_text_is_cut_and_printable() -> None:
    report = {"failure_class": "Internal", "message": "\x1b[31m\u202ered\x00\nline" + "m" * 5000, "traceback_end": "a" * 3000 + "end"}
    told = parse_from_agent(frame_of(FAILURE | {"report": report})).report
    assert told.message.startswith("[31mred\nlinemmm")
    assert len(told.message) == 1000
    assert told.traceback_end.endswith("aend")
    assert len(told.traceback_end) == 2000


def test_a_reason_is_one_of_ours() -> None:
    for reason in WARNING_REASONS:
        assert parse_from_agent(frame_of({"type": "warned", "reason": reason, "message": ""})).reason == reason
    assert parse_from_agent(frame_of({"type": "warned", "reason": "Mine", "message": ""})).reason == "MemberWarning"
    for reason in STORAGE_REASONS:
        assert parse_from_agent(frame_of({"type": "storage", "problem": {"reason": reason, "message": ""}})).problem.reason == reason
    assert (
        parse_from_agent(frame_of({"type": "storage", "problem": {"reason": "Mine", "message": ""}})).problem.reason == "StorageUnavailable"
    )


def test_last_words_have_the_same_bounds() -> None:
    with pytest.raises(ValidationError):
        FailureReport.model_validate_json('{"failure_class": "NotFinite", "message": "x", "rank": -99}')
    assert FailureReport.model_validate_json('{"failure_class": "Novel", "message": "x"}').failure_class == "Internal"


def test_only_members_of_the_job_are_called_unreachable() -> None:
    table = SessionTable()
    for serial in (1, 2):
        table.greet(parse_from_agent(frame_of(HELLO | {"member_uid": uid_of(serial)})), NOW)
    for number in range(1000):
        table.hear(uid_of(1), parse_from_agent(frame_of(PROBED | {"peer_uid": f"stranger-{number}"})), NOW)
    assert table.get(uid_of(1)).unreachable_peers == frozenset()
    table.hear(uid_of(1), parse_from_agent(frame_of(PROBED)), NOW)
    assert table.get(uid_of(1)).unreachable_peers == {uid_of(2)}
    table.forget(uid_of(2))
    assert table.get(uid_of(1)).unreachable_peers == frozenset()


@st.composite
def mutated(draw) -> dict[str, Any]:
    """A message that people say, with some of its fields replaced, wherever they stand."""
    message = json.loads(json.dumps(draw(st.sampled_from([*HONEST, FINISHED, *(odd for name, odd in ODD.items() if "NaN" not in name)]))))
    return draw(replaced(message))


@fuzz(200)
@given(st.lists(mutated(), min_size=1, max_size=4))
def test_any_message_that_parses_can_be_carried(messages) -> None:
    told = []
    for message in messages:
        try:
            told.append(parse_from_agent(frame_of(message)))
        except ValidationError:
            continue
    carry(*told)


@pytest.mark.parametrize("changes", [{"term": MAX_COUNT}, {"address": "a" * 253}, {"address": "::1%" + "z" * 249}], ids=str)
def test_the_greatest_value_of_a_hello_is_carried(changes) -> None:
    carry(parse_from_agent(frame_of(HELLO | changes)), parse_from_agent(frame_of(PROBED)))


@fuzz(150)
@given(st.one_of(st.binary(max_size=200), texts(200), JSON.map(frame_of)))
def test_any_bytes_are_refused_or_parsed_and_raise_nothing_else(frame) -> None:
    try:
        parse_from_agent(frame)
    except ValidationError:
        return


@pytest.mark.parametrize(
    "frame", ["[" * 100_000, '{"type":' * 5000, '{"type":"progress","step":' + "9" * 5000 + "}", '"\\ud800"', "\ud800"]
)
def test_hostile_json_is_refused(frame) -> None:
    with pytest.raises(ValidationError):
        parse_from_agent(frame)
