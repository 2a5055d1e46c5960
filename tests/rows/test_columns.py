"""Rows of other tools: the preset makes chat messages of them, and a row that has another form is told the way."""

import json

import pytest

from finetune_contract.failures import TrainingError
from finetune_trainer.rows import RowError, read_rows

SHAREGPT = {"system": "be brief", "conversations": [{"from": "human", "value": "port?"}, {"from": "gpt", "value": "9443", "weight": 0}]}
CALL = {
    "tools": "[]",
    "conversations": [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "It rains."},
    ],
}
ALPACA = {"instruction": "Translate.", "input": "ja", "output": "yes", "history": [["hi", "hello"]], "system": ""}


def messages_of(row, columns, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (found,) = [found for found in read_rows(tmp_path / "rows.jsonl", field="f", form="auto", columns=columns) if found is not None]
    return found.problem if isinstance(found, RowError) else found.content["messages"]


def test_sharegpt_becomes_messages(tmp_path):
    assert messages_of(SHAREGPT, "sharegpt", tmp_path) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "port?"},
        {"role": "assistant", "content": "9443", "weight": 0},
    ]


def test_function_calls_of_sharegpt_become_tool_calls(tmp_path):
    messages = messages_of(CALL, "sharegpt", tmp_path)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "look", "arguments": {"city": "Oslo"}}}]


def test_calls_that_are_made_at_once_become_one_turn(tmp_path):
    calls = [{"name": "look", "arguments": {"city": city}} for city in ("Oslo", "Rome")]
    turns = [{"from": "human", "value": "weather?"}, {"from": "function_call", "value": json.dumps(calls)}]
    made = messages_of({"conversations": turns}, "sharegpt", tmp_path)[1]["tool_calls"]
    assert [call["function"] for call in made] == calls


def test_alpaca_becomes_messages(tmp_path):
    assert messages_of(ALPACA, "alpaca", tmp_path) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "Translate.\nja"},
        {"role": "assistant", "content": "yes"},
    ]


@pytest.mark.parametrize(
    ("row", "columns", "problem"),
    [
        ({"conversations": []}, "sharegpt", "conversations: wanted a list with at least one turn, got an empty list"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "sharegpt", "conversations[0].from: wanted one of human, user, gpt"),
        ({"conversations": [{"from": "gpt"}]}, "sharegpt", "conversations[0].value: wanted a string, got nothing"),
        ({"conversations": [{"from": "function_call", "value": "look"}]}, "sharegpt", "wanted a function call as JSON"),
        (
            {"conversations": [{"from": "function_call", "value": '{"name": "f", "name": "g", "arguments": {}}'}]},
            "sharegpt",
            "the key name is",
        ),
        ({"conversations": [{"from": "function_call", "value": "[]"}]}, "sharegpt", "wanted a function call as JSON"),
        ({"instruction": "", "output": "x"}, "alpaca", "instruction and input are empty"),
        ({"instruction": "a"}, "alpaca", "output: wanted a string, got nothing"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "alpaca", "history[0]: wanted a pair of strings"),
        (SHAREGPT, None, "set spec.dataset.columns: sharegpt"),
        (ALPACA, None, "set spec.dataset.columns: alpaca"),
    ],
)
def test_a_row_of_another_form_is_told_what_was_wanted(row, columns, problem, tmp_path):
    assert problem in messages_of(row, columns, tmp_path)


def test_a_preset_keeps_what_other_columns_hold(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({**CALL, "id": 7}))
    rows = read_rows(tmp_path / "rows.jsonl", field="f", form="auto", columns="sharegpt")
    (row,) = [row for row in rows if row is not None]
    assert (row.content["tools"], row.content["id"], rows.unused) == ("[]", 7, {"id": 1})


def test_no_rows_is_an_error_with_a_preset_too(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(TrainingError, match="the file has no rows"):
        read_rows(tmp_path / "rows.jsonl", field="f", form="auto", columns="alpaca")
