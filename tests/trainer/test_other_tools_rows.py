"""Rows as other tools and tables write them: nothing of one is lost, and nothing is trained that was not meant, without a word."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from tests.trainer.chats import CHATML, FIELD, OPENS_THOUGHT, THOUGHTS, encode, make_tokenizer, marked, said

from finetune_contract.failures import TrainingError
from finetune_trainer.notes import ANSWER_CHANGED, NULL_ARGUMENTS, OPEN_TURN, Note, note_events
from finetune_trainer.rows import Row, RowError, read_rows

TOKENIZER = make_tokenizer(eos="<|endoftext|>")
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}\n"
OSLO = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def turn(**fields):
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", **fields}]}


def call(**function):
    return {"type": "function", "function": {"name": "weather", **function}}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": [{"role": "Assistant", "content": "a"}, *said("q", "b")["messages"]]}, '[0].role: wanted assistant, got "Assistant"'),
        ({"messages": [{"role": "user ", "content": "a"}, *said("q", "b")["messages"]]}, '[0].role: wanted user, got "user "'),
        ({"messages": [{"role": "human", "content": "q"}, {"role": "assistant", "content": "b"}]}, '[0].role: wanted user, got "human"'),
        ({"messages": [*said("q", "b")["messages"], {"role": "gpt", "content": "c"}]}, '[2].role: wanted assistant, got "gpt"'),
        ({"messages": [*said("q", "b")["messages"], {"role": "AI", "content": "c"}]}, '[2].role: wanted assistant, got "AI"'),
        (turn(content="a", reasoning="one", reasoning_content="two"), "[1]: reasoning_content, reasoning hold different thoughts"),
        (turn(tool_calls=[call(arguments={})], function_call={"name": "f"}), "[1]: it has tool_calls and function_call; keep one"),
        (turn(tool_calls=[call(parameters={"city": "Oslo"})]), "arguments: wanted a JSON object, got nothing; it has parameters"),
        (turn(tool_calls=[{"name": "weather", "input": {"city": "Oslo"}}]), "arguments: wanted a JSON object, got nothing; it has input"),
        (turn(content="a", loss=0.3), "[1].loss: wanted true or false, got a number"),
        (turn(content=[{"name": "weather", "content": "4"}]), "[1].content[0]: wanted a part"),
    ],
)
def test_what_would_be_lost_or_taken_for_something_else_is_refused_with_its_field(row, problem):
    with pytest.raises(TrainingError) as raised:
        encode(TOKENIZER, row, template=THOUGHTS)
    assert raised.value.message.startswith(f"{FIELD}: row 1: messages[")
    assert problem in raised.value.message


@pytest.mark.parametrize("role", ["observation", "function_response", "critic"])
def test_roles_that_a_template_may_know_are_left_to_it(role):
    row = {"messages": [{"role": role, "content": "4 degrees"}, *said("q", "a")["messages"]]}
    assert marked(TOKENIZER, row).startswith(f"<|im_start|>{role}\n4 degrees<|im_end|>")


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_calls": [], "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"tool_calls": "", "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"tool_calls": [call(arguments={"city": "Oslo"})], "function_call": ""},
        {"tool_calls": [call(arguments={"city": "Oslo"})], "reasoning": "", "reasoning_content": "t"},
    ],
)
def test_an_empty_field_beside_a_full_one_is_none(fields):
    assert f"{OSLO}<|im_end|>]]" in marked(TOKENIZER, turn(**fields), template=THOUGHTS)


def test_a_turn_without_loss_in_the_words_of_ms_swift_carries_none():
    row = said("q", "no", "r", "yes")
    row["messages"][1]["loss"] = False
    assert marked(TOKENIZER, row) == CHAT.format("q", "no<|im_end|>") + CHAT.format("r", "[[yes<|im_end|>]]")


@pytest.mark.parametrize("tools", ["", "  ", "[]", None])
def test_tools_that_are_blank_are_none(tools):
    assert marked(TOKENIZER, {**said("q", "a"), "tools": tools}) == CHAT.format("q", "[[a<|im_end|>]]")


def test_nulls_that_a_table_puts_into_arguments_are_left_out_and_told(tmp_path):
    arguments = [{"city": "Oslo"}, {"sum": "1+1"}]
    rows = [turn(tool_calls=[call(arguments=one)]) for one in arguments]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = [row for row in read_rows(tmp_path / "rows.parquet", field=FIELD, form="auto") if isinstance(row, Row)]
    for row, one in zip(read, arguments, strict=True):
        assert f'"arguments": {json.dumps(one)}}}' in marked(TOKENIZER, row.content, template=THOUGHTS)
        assert encode(TOKENIZER, row.content, template=THOUGHTS).notes == (NULL_ARGUMENTS,)


def test_a_null_in_a_text_of_json_is_what_was_said():
    row = turn(tool_calls=[call(arguments='{"city": null}')])
    encoded = encode(TOKENIZER, row, template=THOUGHTS)
    assert '"arguments": {"city": null}}' in TOKENIZER.decode(encoded.ids)
    assert encoded.notes == ()


@pytest.mark.parametrize(
    ("template", "answer", "notes"),
    [
        (OPENS_THOUGHT, "<think>long</think>short", (ANSWER_CHANGED,)),
        (THOUGHTS, "<think>one</think> a <think>two</think> b", (ANSWER_CHANGED,)),
        (CHATML.replace("m['content']", "m['content'][:20]"), "twenty characters and a few more", (ANSWER_CHANGED,)),
        (THOUGHTS, "<think>\none\n</think>\n\nb", ()),
        (THOUGHTS, "<think>one</think>b", ()),
        (CHATML.replace("m['content']", "m['content'] | trim"), " \n a  b\n", ()),
    ],
)
def test_an_answer_that_is_shown_in_part_is_told(template, answer, notes):
    assert encode(TOKENIZER, said("q", answer), template=template).notes == notes


def test_a_thought_that_is_left_out_of_an_earlier_turn_by_design_is_no_change():
    assert encode(TOKENIZER, said("q", "<think>t</think>a", "r", "<think>u</think>b"), template=THOUGHTS).notes == ()


def test_a_change_behind_thoughts_that_are_left_out_by_design_is_told():
    turns = [text for number in range(3) for text in ("q", f"<think>t{number}</think>a")]
    assert encode(TOKENIZER, said(*turns, "r", "<think>one</think> a <think>two</think> b"), template=THOUGHTS).notes == (ANSWER_CHANGED,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"city": "Oslo", "city": "Rome"}', "the key city is there twice in one object"),
        ('{"city": NaN}', "NaN is not a JSON number"),
        ('{"city": 1e999}', "a number is too large"),
        ('{"city": ' + "9" * 5000 + "}", "a number has 5000 digits"),
        (r'{"city": "\ud83d"}', "half of a surrogate pair"),
        ('{"city": ' + "[" * 600 + "]" * 600 + "}", "is nested deeper than 100 levels"),
        ('{"city": ' + "[" * 5000 + "]" * 5000 + "}", "is nested deeper than 100 levels"),
    ],
)
def test_json_within_a_row_is_held_to_what_rows_are_held_to(text, problem):
    for row, field in (
        (turn(tool_calls=[call(arguments=text)]), "messages[1].tool_calls[0].function.arguments"),
        ({**said("q", "a"), "tools": f"[{text}]"}, "tools"),
    ):
        with pytest.raises(RowError) as raised:
            encode(TOKENIZER, row, template=THOUGHTS)
        assert raised.value.problem.startswith(f"{field}: {problem}")


def test_the_event_says_what_was_changed_and_what_to_do():
    (_, event) = note_events((Note(text=ANSWER_CHANGED, count=2, first=7),), field=FIELD, num_tokens=8, num_targets=2)
    assert event.reason == "RowsChanged"
    assert event.message.startswith(f"{FIELD}: row 7 and 1 more: an answer is not shown as it stands in the row; the chat template omits")


@pytest.mark.parametrize(("form", "row"), [("text", {"text": "a"}), ("prompt-completion", {"prompt": "q", "completion": "a"})])
def test_plain_rows_of_a_tokenizer_without_an_end_are_told_to_have_none(form, row):
    without_end = make_tokenizer(eos="<|endoftext|>")
    without_end.eos_token = None
    assert encode(without_end, row, form=form, trains_on_all=form == "text").notes == (OPEN_TURN,)
    assert encode(TOKENIZER, row, form=form, trains_on_all=form == "text").notes == ()


COUNTING = CHATML.replace("{% for m in messages %}", "{% for m in messages %}{% set left = (messages | length) - loop.index0 %}")


def test_a_long_conversation_costs_no_more_for_a_template_that_counts_its_turns():
    """Qwen3's own does so at every turn."""
    long = {"messages": [{"role": "user", "content": "q" * 2000}, {"role": "user", "content": "r"}] * 400 + said("q", "a")["messages"]}
    encoded = encode(TOKENIZER, long, template=COUNTING, trains_on_all=True)
    assert TOKENIZER.decode(encoded.ids).count("<|im_start|>") == 802


@pytest.mark.parametrize("row", [said("q", "a " * 4_500_000), said("q" * 9_000_000, "a")], ids=["answer", "question"])
def test_a_row_beyond_all_bounds_is_to_blame_and_not_the_template(row):
    with pytest.raises(RowError, match=r"row 1: the chat template takes too long for 2 messages with 90000\d\d characters .*split the row"):
        encode(TOKENIZER, row)
