"""What `finetune rows` shows: the rows as the model sees them, and the words that the job itself would say of them."""

import json

import pytest
from tests.agent.builders import a_config, a_training
from tests.trainer.chats import CHATML, make_tokenizer, said

from finetune_trainer.show_rows import COLOUR, PLAIN, render_row, show_place, visible

FIELD = "spec.dataset.uri"


@pytest.fixture
def shown(tmp_path):
    def show(*rows, num_shown=3, **training):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = a_config(tmp_path, training=a_training(**{"chat_template": CHATML, **training}))
        return list(show_place(config, make_tokenizer(), file, FIELD, num_shown=num_shown, pen=PLAIN))

    return show


def test_rows_are_shown_with_what_carries_loss_marked_and_counts_are_of_all(shown):
    lines = shown(said("q", "a"), said("one", "two"), said("three", "four"), num_shown=1)
    assert lines[1] == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[a<|im_end|>]]\n"
    assert sum(line.startswith("row ") for line in lines) == 1
    assert [line for line in lines if line.startswith(f"{FIELD}: 3 rows, ")]
    assert any(line.startswith(f"RowsTokenised: {FIELD}: ") and line.endswith("end of turn trained: yes") for line in lines)


def test_what_is_cut_is_told(shown):
    lines = shown(said("q", "a"), said("q", "b" * 200))
    assert any(line.startswith("RowsCut: 1 of 2 rows was cut at spec.training.maxSequenceLength 64") for line in lines)


def test_colour_stands_around_the_same_text():
    tokenizer = make_tokenizer()
    ids = tokenizer("hello there", add_special_tokens=False)["input_ids"]
    marks = [False] * (len(ids) - 1) + [True]
    plain, coloured = (render_row(tokenizer, ids, marks, pen) for pen in (PLAIN, COLOUR))
    assert coloured == plain.replace("[[", "\x1b[32m").replace("]]", "\x1b[0m")


def test_nothing_in_a_row_moves_the_cursor_of_a_terminal():
    assert visible("a\x1b[2J\u202e\u00a0\tb\n") == "a\\x1b[2J\\u202e\\xa0\\tb\n"
