"""Whoever takes the tokenizer from the adapter reads text as the trainer did."""

import json
import shutil

import pytest
import torch
from tests.trainer.formations import ROWS, a_config
from torch import nn
from transformers import AutoTokenizer

from finetune_trainer.export import export_adapter
from finetune_trainer.families import FAMILIES
from finetune_trainer.tokenise import load_tokenizer

TEXTS = [json.dumps(json.loads(line), ensure_ascii=False) for line in ROWS.read_text().splitlines()[:60]]


@pytest.mark.parametrize("named", ["as it was", None, "PreTrainedTokenizerFast", "LlamaTokenizerFast", "Qwen2TokenizerFast"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_adapters_tokenizer_makes_the_tokens_that_were_trained_on(architecture, named, inputs, tmp_path):
    model_dir, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(inputs / architecture, model_dir)
    file = model_dir / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    if named != "as it was":
        settings = {key: value for key, value in settings.items() if key != "tokenizer_class"} | (
            {"tokenizer_class": named} if named else {}
        )
        file.write_text(json.dumps(settings))
    config = a_config(model_dir, inputs / "rows.jsonl")
    weights = {"model.layers.0.self_attn.q_proj.lora_A": nn.Parameter(torch.zeros(2, 2))}
    export_adapter(adapter, config=config, adapters=weights, kinds=("q_proj",), model_dir=model_dir)
    trained, served = load_tokenizer(model_dir, model_uri="file:///model"), AutoTokenizer.from_pretrained(adapter)
    assert served(TEXTS)["input_ids"] == trained(TEXTS)["input_ids"]
    assert (served.eos_token, served.chat_template) == (trained.eos_token, trained.chat_template)
