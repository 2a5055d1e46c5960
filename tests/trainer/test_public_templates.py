"""The loss of 44 conversations under the templates of public models equals what marked templates or the description of the format say.

TRL ships marked copies of some templates; they are read where the package lies. Differences that are meant stand in `AGREED` alone.
"""

import itertools
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.trainer.chats import encode, make_tokenizer, shown

from finetune_contract.failures import TrainingError

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}}]
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Ours and TRL's differ on purpose: a line break after the end token is not generated, one after the header belongs to the prompt, and an
# empty block of thought stands where the model's own template puts it, not in every turn.
AGREED = (
    (re.compile(r"(<\|im_end\|>)\n\]\]"), r"\1]]\n"),
    (re.compile(r"\[\[\n"), r"\n[["),
    (re.compile(r"<think>\n\n</think>\n\n"), ""),
)


def template_of(name):
    package = find_spec("trl")
    assert package is not None
    assert package.submodule_search_locations is not None
    return (Path(package.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text()


def conversations():
    user = [{"role": "user", "content": "Which port?"}]
    again = [{"role": "user", "content": "And now?"}]
    system = [{"role": "system", "content": "Be brief."}]
    answers = (
        "Port 9443.",
        "9443.\n",
        "  9443  ",
        "",
        "port?",
        "Which port?",
        "\u00e9\u4e2d\U0001f600",
        "a\n\nb",
        "assistant",
        "```\ncode\n```",
    )
    for text in answers:
        answer = [{"role": "assistant", "content": text}]
        yield {"messages": user + answer}
        yield {"messages": [*system, *user, *answer, *again, {"role": "assistant", "content": "Yes."}]}
        yield {"messages": user + answer + again + answer}
    for text in ("<think>\n2+2: 4 is\n</think>\n\n4", "<think>\nshort\n</think>\n\nWhich port?"):
        answer = [{"role": "assistant", "content": text}]
        yield {"messages": user + answer}
        yield {"messages": [*user, {"role": "assistant", "content": "Yes."}, *again, *answer]}
    thought = {"role": "assistant", "content": "4", "reasoning_content": "2+2: 4 is"}
    yield {"messages": [*user, thought]}
    yield {"messages": [{"role": "assistant", "content": "Hello."}, *user, {"role": "assistant", "content": "Yes."}]}
    result = [{"role": "tool", "content": "4 degrees"}]
    last = [{"role": "assistant", "content": "It is 4."}]
    for content, arguments in itertools.product(("", "I ask."), ({"city": "Oslo"}, {"city": "Which port?", "days": 2})):
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        yield {"messages": [*user, {"role": "assistant", "content": content, "tool_calls": [call]}, *result, *last], "tools": TOOLS}
        yield {"messages": [*user, {"role": "assistant", "content": content, "tool_calls": [call]}], "tools": TOOLS}


CONVERSATIONS = tuple(conversations())


def encoded_if_shown(tokenizer, row, template):
    """None for a row of which the template leaves a field out, such as tools or a thought: it is refused for that and nothing else."""
    try:
        return encode(tokenizer, row, template=template)
    except TrainingError as error:
        if "the chat template does not show this field" not in error.message:
            raise
        return None


def agreed(text):
    for pattern, replacement in AGREED:
        text = pattern.sub(replacement, text)
    return text.replace("[[]]", "")


@pytest.mark.parametrize(
    ("name", "eos", "num_compared"),
    [
        ("qwen3", "<|im_end|>", 44),
        ("qwen3", "<|endoftext|>", 44),
        ("qwen3_instruct_2507", "<|endoftext|>", 43),
        ("qwen2_5", "<|endoftext|>", 43),
        ("llama3", "<|eot_id|>", 35),
    ],
)
def test_the_loss_is_that_of_trls_marked_template(name, eos, num_compared):
    tokenizer, compared = make_tokenizer(eos=eos), 0
    marked = template_of(f"{name}_training")
    for row in CONVERSATIONS:
        ours = encoded_if_shown(tokenizer, row, template_of(name))
        if ours is None:
            continue
        options = {"tools": row.get("tools"), "return_dict": True, "return_assistant_tokens_mask": True}
        theirs = tokenizer.apply_chat_template(row["messages"], chat_template=marked, **options)
        expected = shown(tokenizer, theirs["input_ids"], theirs["assistant_masks"])
        assert agreed(shown(tokenizer, ours.ids, ours.is_target)) == agreed(expected)
        assert ours.notes == ()
        compared += 1
    assert (len(CONVERSATIONS), compared) == (44, num_compared)


@pytest.mark.parametrize(
    ("template", "header", "end", "num_compared"),
    [
        ("llama3_1", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", 39),
        ("llama3_2", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", 39),
        (SMOLLM2, "<|im_start|>assistant\n", "<|im_end|>", 35),
    ],
)
def test_the_loss_is_that_of_the_described_format(template, header, end, num_compared):
    source = template if template == SMOLLM2 else template_of(template)
    tokenizer, compared = make_tokenizer(eos="<|endoftext|>"), 0
    for row in CONVERSATIONS:
        ours = encoded_if_shown(tokenizer, row, source)
        if ours is None:
            continue
        whole = tokenizer.decode(ours.ids)
        expected = re.sub(f"{re.escape(header)}(.*?{re.escape(end)})", lambda turn: f"{header}[[{turn[1]}]]", whole, flags=re.DOTALL)
        assert shown(tokenizer, ours.ids, ours.is_target) == expected
        compared += 1
    assert compared == num_compared
