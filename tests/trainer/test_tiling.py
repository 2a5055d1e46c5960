"""Turns are found by a number of renderings that does not grow with them, and always where one rendering for each turn finds them."""

import pytest
from hypothesis import HealthCheck, given, settings
from tests.trainer.chats import CHATML, OPENS_THOUGHT, SPACED, THOUGHTS, encode, make_tokenizer, marked, said
from tests.trainer.talks import TALKS, TOOLS
from tests.trainer.test_public_templates import SMOLLM2, template_of

import finetune_trainer.encode
from finetune_contract.chat_template import ChatTemplate
from finetune_contract.failures import TrainingError
from finetune_trainer.tiling import tiles_of

TOKENIZER = make_tokenizer(eos="<|endoftext|>")
PUBLIC = ("qwen3", "qwen3_instruct_2507", "qwen2_5", "llama3", "llama3_1", "deepseek_r1_distill", "gemma3", "phi3", "gptoss", "lfm2_v2")
OPEN_ENDED = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# The prompt for an answer is another one where the system message asks for thoughts, as in SmolLM3.
SWITCHED = CHATML.replace(
    "{{ '<|im_start|>assistant\n' }}",
    "{{ '<|im_start|>assistant\n' + ('<think>\n' if messages[0].role == 'system' and messages[0].content == 'a' else '') }}",
)
ASKS_OTHERS = CHATML.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt and messages[-1].role != 'assistant' %}")
OWN = {
    "chatml": CHATML,
    "spaced": SPACED,
    "opens a thought": OPENS_THOUGHT,
    "thoughts": THOUGHTS,
    "open ended": OPEN_ENDED,
    "the last turn first": CHATML.replace("in messages %}", "in messages[::-1] %}"),
    "switched": SWITCHED,
    "asks after others": ASKS_OTHERS,
    "smollm2": SMOLLM2,
}


def source_of(name):
    return OWN[name] if name in OWN else template_of(name)


def answered(row, template, *, trains_on_all):
    try:
        return encode(TOKENIZER, row, template=template, trains_on_all=trains_on_all)
    except TrainingError as error:
        return error.message


@pytest.mark.parametrize("name", [*OWN, *PUBLIC])
def test_every_row_has_the_loss_that_a_rendering_for_each_turn_gives_it(name, monkeypatch):
    template = source_of(name)

    @settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TALKS)
    def compare(row):
        for trains_on_all in (False, True):
            monkeypatch.setattr(finetune_trainer.encode, "tiles_of", tiles_of)
            tiled = answered(row, template, trains_on_all=trains_on_all)
            monkeypatch.setattr(finetune_trainer.encode, "tiles_of", lambda *_args, **_names: {})
            assert tiled == answered(row, template, trains_on_all=trains_on_all)

    compare()


def talk(num_turns):
    return said(*(f"{place} and so on" for place in range(2 * num_turns)))


def errands(num_turns):
    """One question, and an answer that calls a tool before every result."""
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = [{"role": "user", "content": "q"}]
    for place in range(num_turns - 1):
        messages += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": f"{place} degrees"}]
    return {"messages": [*messages, {"role": "assistant", "content": "done"}], "tools": TOOLS}


@pytest.fixture
def rendered(monkeypatch):
    """How many messages each rendering had."""
    sizes, render = [], ChatTemplate.render

    def counted(self, messages, **options):
        sizes.append(len(messages))
        return render(self, messages, **options)

    monkeypatch.setattr(ChatTemplate, "render", counted)
    return sizes


def renderings(sizes, row, template):
    sizes.clear()
    encode(TOKENIZER, row, template=template)
    return [size for size in sizes if size > 5]  # without those that try a template before its first row


@pytest.mark.parametrize(
    ("name", "row_of"),
    [
        *((name, talk) for name in (*OWN, *PUBLIC) if name != "the last turn first"),
        *((name, errands) for name in ("qwen3", "qwen2_5", "llama3_1", "lfm2_v2")),
    ],
)
def test_a_row_costs_as_many_renderings_with_ten_turns_as_with_forty(name, row_of, rendered):
    few, many = (renderings(rendered, row_of(num_turns), source_of(name)) for num_turns in (10, 40))
    assert len(few) == len(many) <= 10


def test_only_the_turn_that_quotes_the_template_costs_renderings_of_its_own(rendered):
    quoting = talk(40)
    quoting["messages"][20]["content"] = "a<|im_end|>\n<|im_start|>assistant\nb"
    plain, more = (len(renderings(rendered, row, CHATML)) for row in (talk(40), quoting))
    assert more == plain + 2


def tiles(row, template):
    chat = ChatTemplate(template, names={}, day=None)
    messages = row["messages"]
    whole = chat.render(messages)
    found = tiles_of(lambda turns, *, asks=False: chat.render(turns, asks=asks), messages, whole, word="zqz")
    return {index: whole[one.shown_first : one.last] for index, one in found.items()}


def test_turns_that_rendering_finds_elsewhere_than_the_tiling_are_left_to_rendering():
    row = {"messages": [{"role": "user", "content": "q"}, *({"role": "assistant", "content": text} for text in "abcd")]}
    expected = "".join(f"<|im_start|>assistant\n[[{text}<|im_end|>]]\n" for text in "abcd")
    assert marked(TOKENIZER, row, template=ASKS_OTHERS) == "<|im_start|>user\nq<|im_end|>\n" + expected


THREE = said("q", "a", "r", "b", "s", "c")


def test_a_text_that_could_stand_in_two_places_is_not_taken():
    assert tiles(THREE, CHATML) == {0: "q", 1: "a", 2: "r", 3: "b", 4: "s", 5: "c"}
    quoting = said("q", "a<|im_end|>\n<|im_start|>user\nd", "r", "b", "s", "c")
    assert tiles(quoting, CHATML) == {0: "q", 3: "b", 4: "s", 5: "c"}


def test_a_template_that_shows_words_elsewhere_twice_or_changed_is_not_tiled():
    for content in ("m['content'] + m['content']", "m['content'] | upper"):
        assert tiles(THREE, CHATML.replace("m['content']", content)) == {}
    assert tiles(THREE, OWN["the last turn first"]) == {}
