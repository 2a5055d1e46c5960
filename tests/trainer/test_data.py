"""Rows, tokens, packs and steps: nothing is lost, nothing is seen twice in an epoch, nothing that is wrong goes unnoticed."""

import json

import numpy as np
import pytest
import torch

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.batch import RowOrder, chain_digest, count_targets, make_micro_batch, pack
from finetune_trainer.data import split
from finetune_trainer.encode import Encoded
from finetune_trainer.rows import read_rows
from finetune_trainer.token_store import StoreRecord, TokenStore
from finetune_trainer.tokenise import Tokenising, load_tokenizer, tokenise

FIELD = "spec.dataset.uri"
GOOD = {"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]}
TURNS = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "yes, one"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "no"},
    ]
}


@pytest.fixture(scope="module")
def tokenizer(inputs):
    return load_tokenizer(inputs / "qwen3", model_uri="file:///model")


@pytest.fixture
def tokens_of(tokenizer, tmp_path):
    def tokens_of(rows, *, form="auto", limit=96, train_on="auto", template=None):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tokenise(read_rows(file, field=FIELD, form=form), tokenizer, limit=limit, train_on=train_on, template=template)

    return tokens_of


def said_in(tokens, tokenizer, row=0):
    """The text of a row's tokens that carry loss."""
    place = slice(tokens.starts[row], tokens.starts[row + 1])
    return tokenizer.decode(tokens.ids[place][tokens.is_target[place]])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([GOOD] * 16 + [{"massages": []}], "row 17: has no messages: it has massages"),
        ([GOOD, "[1]"], "row 2: wanted a JSON object, got a list of 1 entry"),
        ([GOOD, "{'a': 1}"], "row 2: not JSON"),
        ([{"question": "x"}], "row 1: it has question; wanted messages, or prompt and completion, or text"),
        ([{"messages": []}], "row 1: messages: wanted a list with at least one message, got an empty list"),
        ([{"messages": [{"role": "user"}]}], "row 1: messages[0].content: wanted a string, got nothing"),
        ([{"messages": [{"role": "user", "content": 3}]}], "row 1: messages[0].content: wanted a string, got a number"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "row 2: has no completion"),
        ([{"text": ""}], "row 1: text is empty"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "row 1: no message has the role assistant"),
        ([], "the file has no rows"),
    ],
)
def test_an_error_names_the_row_what_came_and_what_was_wanted(lines, problem, tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    with pytest.raises(TrainingError) as raised:
        tokenise(read_rows(file, field=FIELD, form="auto"), tokenizer, limit=96, train_on="auto", template=None)
    assert raised.value.failure_class is FailureClass.USER_ERROR
    assert raised.value.message.startswith(FIELD)
    assert problem in raised.value.message


def test_bytes_that_are_no_utf8_are_named_by_row(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    (_, bad) = [row for row in read_rows(tmp_path / "rows.jsonl", field=FIELD, form="auto") if row is not None]
    assert bad.message == f"{FIELD}: row 2: byte 0xff is not UTF-8; save the file as UTF-8"


class Letters:
    """An encoder whose tokens are the letters of a text; it may refuse a row as a tokenizer does."""

    def encode(self, row, **how):
        if "!" in row.content["text"]:
            raise TypeError("TextEncodeInput must be Union")
        ids = [ord(char) for char in row.content["text"]]
        return Encoded(ids=ids, is_target=[True] * len(ids), notes=("short",) if len(ids) < 3 else ())


def make_parts(folder, file, kill_after=None):
    """As one process of a member does it: goes on behind the last whole part, and may be killed after some parts."""
    store = TokenStore(folder)
    with store.locked(lambda: None):
        record = store.begin()
        rows = read_rows(file, field=FIELD, form="auto")
        tokenising = Tokenising(rows, Letters(), limit=20, done=record.tally if record else None)
        for count, part in enumerate(tokenising.parts(), start=1):
            if kill_after is not None and count > kill_after:
                with (folder / "ids").open("ab") as file:
                    file.write(b"half a part")
                return None
            store.append(part, StoreRecord(is_complete=False, tally=tokenising.tally, files=("rows.jsonl",)))
        store.complete(StoreRecord(is_complete=True, tally=tokenising.tally, files=("rows.jsonl",)))
    return store.open(store.read_record())


def test_tokens_made_with_kills_in_between_are_those_made_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune_trainer.tokenise.PART_TOKENS", 50)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "ab" * (1 + number % 13), "id": number}) + "\n" for number in range(100)))
    straight = make_parts(tmp_path / "straight", file)
    killed = [make_parts(tmp_path / "killed", file, kill_after=parts) for parts in (0, 1, 3, 2)]
    resumed = make_parts(tmp_path / "killed", file)
    assert killed == [None] * 4
    for name in ("ids", "is_target", "starts", "numbers"):
        assert np.array_equal(getattr(straight, name), getattr(resumed, name)), name
    assert straight.tally == resumed.tally
    tally = straight.tally
    assert (tally.num_rows, tally.unused, [(note.count, note.first) for note in tally.notes]) == (100, {"id": 100}, [(8, 1)])


def test_every_row_is_a_beat_while_tokens_are_made(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "ab"}) + "\n" for _ in range(100)))
    beats = []
    tokenising = Tokenising(read_rows(file, field=FIELD, form="auto"), Letters(), limit=20, beat=beats.append)
    list(tokenising.parts())
    assert beats[:100] == list(range(100))


def test_what_the_tokenizer_raises_belongs_to_its_row_and_all_bad_rows_are_told_at_once(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "abc"}\n{"text": "a!"}\nno\n{"text": "b!"}\n')
    with pytest.raises(TrainingError) as raised:
        make_parts(tmp_path / "store", file)
    assert raised.value.message == (
        f"{FIELD}: 3 of 4 rows are bad. rows 2, 4: the tokenizer cannot read it (TypeError); "
        "row 3: not JSON (Expecting value at column 1); wanted one object a line"
    )


def test_rows_that_are_all_too_long_are_an_error_that_says_how_long(tokens_of):
    with pytest.raises(TrainingError, match=r"every row is longer than spec.training.maxSequenceLength 8: of 2 rows, the shortest has"):
        tokens_of([{"text": "word " * 40}] * 2, limit=8)


def test_some_rows_too_long_are_cut_and_counted(tokens_of):
    tokens = tokens_of([{"text": "a"}, {"text": "word " * 40}], limit=8)
    assert (tokens.num_cut, tokens.num_dropped, len(tokens)) == (1, 0, 2)
    assert tokens.length(1) == 8


def test_a_row_cut_before_its_answer_is_dropped_and_counted(tokens_of):
    late = {"messages": [{"role": "user", "content": "why " * 90}, {"role": "assistant", "content": "because"}]}
    tokens = tokens_of([GOOD, late])
    assert (tokens.num_dropped, tokens.numbers.tolist()) == (1, [1])


def test_chat_rows_train_on_what_the_assistant_says_and_its_end(tokens_of, tokenizer):
    assert said_in(tokens_of([TURNS]), tokenizer) == "yes, one<|im_end|>no<|im_end|>"


def test_a_template_without_generation_marks_trains_on_the_same_tokens(tokens_of, tokenizer):
    plain = tokenizer.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    marked, unmarked = tokens_of([TURNS, GOOD]), tokens_of([TURNS, GOOD], template=plain)
    assert np.array_equal(marked.ids, unmarked.ids)
    assert np.array_equal(marked.is_target, unmarked.is_target)


def test_a_template_that_hides_what_was_said_is_blamed_and_not_a_row(tokens_of):
    with pytest.raises(TrainingError, match=r"^spec.training.chatTemplate: it hides the content of messages with the role user"):
        tokens_of([GOOD], template="{% for m in messages %}{{ m['role'] }} {% endfor %}")


def test_prompt_and_completion_train_on_the_completion_or_on_all(tokens_of, tokenizer):
    row = {"prompt": "two plus two is", "completion": " four"}
    assert said_in(tokens_of([row]), tokenizer) == " four<|im_end|>"
    assert said_in(tokens_of([row], train_on="all"), tokenizer) == "two plus two is four<|im_end|>"


def test_text_has_no_completions_to_train_on(tokens_of):
    with pytest.raises(TrainingError, match=r"spec.training.trainOn: completions, but the rows of spec.dataset.uri are text"):
        tokens_of([{"text": "all of it"}], train_on="completions")


def test_text_trains_on_everything(tokens_of, tokenizer):
    assert said_in(tokens_of([{"text": "all of it"}]), tokenizer) == "all of it<|im_end|>"


def test_packing_keeps_every_row_once_and_within_the_capacity(tokens_of):
    tokens = tokens_of([{"text": "word " * (3 + 7 * number % 40)} for number in range(50)])
    packs = pack(range(50), tokens, capacity=96)
    assert sorted(row for members in packs for row in members) == list(range(50))
    assert all(sum(tokens.length(row) for row in members) <= 96 for members in packs)
    assert len(packs) < 50 == len(pack(range(50), tokens, capacity=None))


def test_a_micro_batch_holds_every_token_and_predicts_within_rows_only(tokens_of):
    tokens = tokens_of([GOOD, TURNS, GOOD])
    batch = make_micro_batch((0, 1, 2), tokens, torch.device("cpu"))
    assert batch.tokens_1T[0].tolist() == tokens.ids.tolist()
    assert batch.targets_K.numel() == count_targets((0, 1, 2), tokens) == int(tokens.is_target.sum())
    assert batch.tokens_1T[0][batch.kept_K + 1].tolist() == batch.targets_K.tolist()
    assert batch.positions_1T[0].tolist() == [place for length in batch.segment_lengths for place in range(length)]


def test_an_epoch_holds_every_row_once_and_no_step_crosses_it():
    row_order = RowOrder(np.arange(10, 33), seed=1, batch_size=4, epochs=2, max_steps=None)
    assert (row_order.steps_per_epoch, row_order.total_steps) == (6, 12)
    epochs = [[row for step in range(6 * epoch, 6 * epoch + 6) for row in row_order.rows_of(step).rows] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10, 33))
    assert epochs[0] != epochs[1]


def test_a_step_is_the_same_whatever_was_asked_before():
    first, second = (RowOrder(np.arange(23), seed=1, batch_size=4, epochs=9, max_steps=20) for _ in range(2))
    straight = [first.rows_of(step) for step in range(20)]
    assert [second.rows_of(step) for step in reversed(range(20))] == straight[::-1]


def test_the_split_holds_out_a_share_by_seed_and_at_least_one_row():
    held, kept = split(50, 0.1, 7)
    assert (len(held), sorted([*held, *kept])) == (5, list(range(50)))
    assert not np.array_equal(held, split(50, 0.1, 8)[0])
    assert len(split(50, 0.001, 7)[0]) == 1
    with pytest.raises(TrainingError, match=r"spec.dataset.evalFraction: 0.5 of 1 usable row leaves none"):
        split(1, 0.5, 7)


def test_the_digest_chain_tells_order_apart():
    assert chain_digest("", 1, [1, 2]) != chain_digest("", 1, [2, 1])
    assert chain_digest(chain_digest("", 1, [1]), 2, [2]) != chain_digest(chain_digest("", 1, [2]), 2, [1])
