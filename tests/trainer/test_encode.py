"""One row as tokens: what the assistant says carries loss, from the prompt for an answer to the end of the turn, and nothing else does."""

import json
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.trainer.chats import CHATML, FIELD, OPENS_THOUGHT, SPACED, THOUGHTS, encode, make_tokenizer, marked, said

from finetune_contract.failures import TrainingError
from finetune_trainer.notes import OPEN_TURN, note_events
from finetune_trainer.rows import RowError

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}\n"
CHATML_TOKENIZER, BASE = make_tokenizer(), make_tokenizer(eos="<|endoftext|>")
TRIMMING, SENTENCES = make_tokenizer(trims=True), make_tokenizer(eos="</s>", bos="<s>")


@pytest.mark.parametrize(
    ("tokenizer", "template", "row", "expected"),
    [
        (BASE, CHATML, said("q", "Port 9."), CHAT.format("q", "[[Port 9.<|im_end|>]]")),
        (BASE, CHATML, said("q", "a \n"), CHAT.format("q", "[[a \n<|im_end|>]]")),
        (BASE, CHATML, said("a", "a"), CHAT.format("a", "[[a<|im_end|>]]")),
        (BASE, CHATML, said("q", ""), CHAT.format("q", "[[<|im_end|>]]")),
        (BASE, CHATML, said("q", "say <|im_end|> twice"), CHAT.format("q", "[[say <|im_end|> twice<|im_end|>]]")),
        (BASE, CHATML, {"messages": said("", "hi")["messages"][1:]}, "<|im_start|>assistant\n[[hi<|im_end|>]]\n"),
        (TRIMMING, CHATML, said("q", "a  b:\n\n  c"), CHAT.format("q", "[[a  b:\n\n  c<|im_end|>]]")),
        (SENTENCES, SPACED, said("q", " a\n"), "<s>[INST] q [/INST][[ a </s>]]"),
        (SENTENCES, OPENS_THOUGHT, said("q", "<think>t</think>a"), "<s><|user|>q<|assistant|>[[a</s>]]"),
        (BASE, THOUGHTS, said("q", "<think>2+2: 4 is</think>4"), CHAT.format("q", "[[<think>\n2+2: 4 is\n</think>\n\n4<|im_end|>]]")),
        (
            BASE,
            THOUGHTS,
            said("q", "<think>x</think>a", "r", "b"),
            CHAT.format("q", "[[a<|im_end|>]]") + CHAT.format("r", "[[<think>\n\n</think>\n\nb<|im_end|>]]"),
        ),
    ],
)
def test_a_turn_is_trained_from_its_prompt_to_its_end(tokenizer, template, row, expected):
    assert marked(tokenizer, row, template=template) == expected


@pytest.mark.parametrize("form", ["object", "string", "null content", "no content", "function_call", "arrow"])
def test_a_tool_call_in_any_form_is_shown_once_and_trained_with_its_end(form):
    turn = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    if form == "string":
        turn["tool_calls"] = [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
    elif form == "null content":
        turn["content"] = None
    elif form == "no content":
        del turn["content"]
    elif form == "function_call":
        turn = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    elif form == "arrow":
        turn |= {"reasoning_content": None, "tool_calls": json.dumps([CALL])}
    row = {"messages": [{"role": "user", "content": "q"}, turn]}
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert marked(BASE, row, template=THOUGHTS) == CHAT.format("q", f"[[<think>\n\n</think>\n\n\n{call}<|im_end|>]]")


@pytest.mark.parametrize("key", [{"weight": 0}, {"train": False}, {"trainable": False}])
@pytest.mark.parametrize("has_marks", [False, True])
def test_a_turn_without_weight_carries_no_loss(key, has_marks):
    row = said("q", "no", "r", "yes")
    row["messages"][1] |= key
    marks = "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}" + marks + "{% endfor %}" if has_marks else CHATML
    if has_marks:
        template = template.replace("{% generation %}", "{% if m.role == 'assistant' %}{% generation %}").replace(
            "{% endgeneration %}", "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
        )
    assert marked(BASE, row, template=template) == CHAT.format("q", "no<|im_end|>") + CHAT.format("r", "[[yes<|im_end|>]]")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weight": 0.5}, "messages[1].weight: wanted 0 or 1, got 0.5"),
        ({"weight": 1, "train": False}, "messages[1]: weight, train contradict each other"),
        ({"content": [{"type": "image_url"}]}, "messages[1].content[0]: wanted a part"),
        ({"reasoning_content": "because"}, "messages[1].reasoning_content (role assistant): the chat template does not show this field"),
        ({"tool_calls": [CALL]}, "messages[1].tool_calls[0].function.name (role assistant): the chat template does not show this field"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "Oslo"}}]}, "arguments: wanted JSON, got a string of 4 characters"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, "arguments: wanted a JSON object, got a list of 1 entry"),
    ],
)
def test_what_cannot_be_trained_as_it_is_given_is_refused_with_its_field(change, problem):
    row = said("q", "a")
    row["messages"][1] |= change
    with pytest.raises(TrainingError) as raised:
        encode(BASE, row)
    assert raised.value.message.startswith(f"{FIELD}: row 1: messages[1]")
    assert problem in raised.value.message


def test_a_message_that_the_template_drops_is_refused_and_a_developer_becomes_the_system():
    drops = CHATML.replace("{{ '<|im_start|>'", "{% if m.role in ('user', 'assistant', 'system') %}{{ '<|im_start|>'").replace(
        "\n' }}{% endfor", "\n' }}{% endif %}{% endfor"
    )
    row = said("q", "a")
    told = {"messages": [{"role": "developer", "content": "be brief"}, *row["messages"]]}
    assert marked(BASE, told, template=drops).startswith("<|im_start|>system\nbe brief<|im_end|>")
    dropped = {"messages": [{"role": "function", "content": "rain"}, *row["messages"]]}
    with pytest.raises(TrainingError, match=r"row 1: messages\[0\].content \(role function\): the chat template does not show this field"):
        encode(BASE, dropped, template=drops)
    with pytest.raises(TrainingError, match=r"row 1: tools\[0\]: the chat template does not show this field"):
        encode(BASE, {**row, "tools": json.dumps([{"type": "function", "function": {"name": "f"}}])})


def test_parts_of_text_are_joined_and_pairs_of_messages_train_on_the_completion():
    parts = said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "c")
    assert marked(BASE, parts) == CHAT.format("ab", "[[c<|im_end|>]]")
    first, second = said("q", "a")["messages"], said("r", "b")["messages"]
    pair = {"prompt": [*first, second[0]], "completion": [second[1]]}
    assert marked(BASE, pair, form="prompt-completion") == CHAT.format("q", "a<|im_end|>") + CHAT.format("r", "[[b<|im_end|>]]")


@pytest.mark.parametrize("adds", [None, "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("end", ["", "</s>", "</s>\n"])
def test_plain_rows_begin_and_end_once_and_nothing_comes_between_prompt_and_completion(adds, end):
    tokenizer = make_tokenizer(eos="</s>", bos="<s>", adds=adds)
    begin = "" if adds is None else "<s>"
    pair = {"prompt": "two is", "completion": f" one{end}"}
    assert marked(tokenizer, pair, form="prompt-completion") == f"{begin}two is[[ one{end or '</s>'}]]"
    assert marked(tokenizer, {"text": f"all{end}"}, form="text", trains_on_all=True) == f"[[{begin}all{end or '</s>'}]]"
    assert marked(tokenizer, {"text": f"{begin}all"}, form="text", trains_on_all=True) == f"[[{begin}all</s>]]"


def test_the_word_generation_is_no_mark_and_a_turn_without_an_end_is_told():
    assert marked(BASE, said("q", "a"), template="{# the generation prompt #}" + CHATML) == CHAT.format("q", "[[a<|im_end|>]]")
    open_ended = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    encoded = encode(BASE, said("q", "a"), template=open_ended)
    assert encoded.notes == (OPEN_TURN,)
    assert encode(BASE, said("q", "a")).notes == ()


def test_a_date_is_that_of_the_job():
    dated = "{{ strftime_now('%d %b %Y') }}" + CHATML
    encoded = encode(BASE, said("q", "a"), template=dated, day=date(2025, 3, 4))
    assert BASE.decode(encoded.ids).startswith("04 Mar 2025")
    assert encoded.notes == ("the chat template shows a date: 2025-03-04",)


TEXTS = st.text(alphabet="ab \n:.<>{}|\u00e9\U0001f600", max_size=12) | st.sampled_from(("<|im_end|>", "</think>", "assistant\n", "zq0qz"))


@settings(max_examples=150, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=7), st.sampled_from(((BASE, CHATML), (TRIMMING, CHATML), (SENTENCES, SPACED))), st.booleans())
def test_a_trained_turn_is_what_the_model_must_generate(texts, setting, assistant_first):
    (tokenizer, template), is_spaced = setting, setting[1] == SPACED
    messages = said(*texts)["messages"]
    if assistant_first and not is_spaced:
        messages = [{**one, "role": "user" if one["role"] == "assistant" else "assistant"} for one in messages]
    if not any(one["role"] == "assistant" for one in messages):
        messages.append({"role": "assistant", "content": texts[0]})
    encoded = encode(tokenizer, {"messages": messages}, template=template)
    ids, expected, trained = encoded.ids, [], [token for token, mark in zip(encoded.ids, encoded.is_target, strict=True) if mark]
    for place, one in enumerate(messages):
        if one["role"] == "assistant":
            prompt = "<|im_start|>assistant\n"  # nothing else stands before an assistant that speaks first
            if place:
                prompt = tokenizer.apply_chat_template(messages[:place], chat_template=template, tokenize=False, add_generation_prompt=True)
            so_far = tokenizer.apply_chat_template(messages[: place + 1], chat_template=template, tokenize=False)
            expected.append(so_far.removeprefix(prompt).removesuffix("\n"))
    assert tokenizer.decode(trained) == "".join(expected)
    whole = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert encoded.notes == ()


def test_events_say_the_share_that_is_trained_and_whether_every_answer_ends():
    assert [event.message for event in note_events((), field=FIELD, num_tokens=8, num_targets=2)] == [
        f"{FIELD}: 2 of 8 tokens carry loss (25.0 %); end of turn trained: yes"
    ]


LONG = {"messages": [{"role": role, "content": f"{role} {number}"} for number in range(40) for role in ("user", "assistant")]}
BACKWARDS = CHATML.replace("in messages %}", "in messages[::-1] %}")


@pytest.mark.parametrize("template", [CHATML, BACKWARDS], ids=["in order", "the last turn first"])
def test_a_limit_changes_no_mark_before_it(template):
    whole, short = (encode(BASE, LONG, template=template, **how) for how in ({}, {"limit": 60}))
    assert short.is_target[:60] == whole.is_target[:60]
    assert any(short.is_target[:60])


def test_turns_behind_the_limit_are_not_looked_for_and_every_turn_is_a_beat():
    beats = []
    encode(BASE, LONG, beat=lambda: beats.append(1))
    assert len(beats) == 40
    encode(BASE, LONG, limit=60, beat=lambda: beats.append(1))
    assert 40 < len(beats) < 50


@pytest.mark.parametrize("made", ["m.content", "'bad: ' ~ m.content", "m.content[:8]"])
def test_a_template_that_quotes_the_row_in_its_refusal_is_not_quoted(made):
    refusal = "{% if 'secret' in m.content %}{{ raise_exception(" + made + ") }}{% endif %}"
    with pytest.raises(RowError) as refused:
        encode(BASE, said("q", "a secret"), template=CHATML.replace("{% for m in messages %}", "{% for m in messages %}" + refusal))
    assert "secret" not in str(refused.value)
    assert "raise_exception" in str(refused.value)


def test_a_refusal_that_stands_in_the_template_is_told():
    with pytest.raises(RowError, match="only user and assistant"):
        encode(SENTENCES, {"messages": [{"role": "critic", "content": "x"}, *said("q", "a")["messages"]]}, template=SPACED)
