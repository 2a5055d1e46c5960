"""Rows that were learnt by heart, asked again through plain transformers and peft: every answer is the learnt one and ends by itself."""

import pytest
import torch
from examples.make_tiny_model import make_tiny_model
from peft import PeftModel
from tests.trainer.chats import CHATML, THOUGHTS, make_tokenizer
from tests.trainer.formations import ROWS, a_config, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

ASKED = {"Which port?": "Port 9443.", "Which node?": "Node 3.", "How many ranks?": "8 ranks.", "Which colour?": "Green."}
RECIPE = {"epochs": 200, "globalBatchSize": 4, "learningRate": 0.01, "schedule": "constant", "maxSequenceLength": 128}
ENDS = ("<|im_end|>", "<|endoftext|>")


def a_call(answer):
    return {"content": "", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"for": answer}}}]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    return make_tiny_model(folder, hidden_size=64, vocab_size=512, rows=ROWS, with_chat_template=False)


@pytest.mark.parametrize(
    ("eos", "template", "answer_of"),
    [
        ("<|endoftext|>", CHATML, lambda answer: {"content": answer}),
        ("<|im_end|>", CHATML, lambda answer: {"content": answer + "\n"}),
        ("<|im_end|>", THOUGHTS, a_call),
        ("<|im_end|>", THOUGHTS, lambda answer: {"content": f"<think>\nit was asked\n</think>\n\n{answer}"}),
    ],
    ids=["a base model, with another end token", "answers that end in a line break", "calls of a tool", "thoughts before the answer"],
)
def test_every_answer_ends_by_itself(eos, template, answer_of, base, formations, tmp_path):
    make_tokenizer(eos=eos).save_pretrained(base)
    asked = [[{"role": "user", "content": question}] for question in ASKED]
    rows = [[*question, {"role": "assistant", **answer_of(answer)}] for question, answer in zip(asked, ASKED.values(), strict=True)]
    training = {**RECIPE, "chatTemplate": template}
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": row} for row in rows])
    config = a_config(base, file, adapter={"rank": 16, "alpha": 32}, training={**training, "maxSteps": None})
    ended = formations.run(config, tmp_path)
    assert ended.is_complete
    adapter = tmp_path / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    for question, row in zip(asked, rows, strict=True):
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        learnt = tokenizer.apply_chat_template(row, tokenize=False).removeprefix(prompt).rstrip("\n")
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ends = tokenizer.convert_tokens_to_ids(list(ENDS))
        made = model.generate(ids, max_new_tokens=100, do_sample=False, eos_token_id=ends, pad_token_id=ends[1])
        assert tokenizer.decode(made[0, ids.shape[1] :]) == learnt
        assert learnt.endswith("<|im_end|>")
