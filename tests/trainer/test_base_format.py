"""Another format of the frozen base needs its own methods and nothing else: here 8 bits for a weight and one scale for a row, made up."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tests.trainer.formations import a_config
from tests.trainer.test_model import CPU, built, some_tokens, train_a_little
from torch import nn

from finetune_contract.failures import TrainingError
from finetune_trainer import lora
from finetune_trainer.base_format import BaseFormat, load_rows, num_bytes, own_rows
from finetune_trainer.batch import make_micro_batch
from finetune_trainer.shard import model_bytes


class EightBits(BaseFormat):
    def __init__(self, linear):
        super().__init__()
        self.codes = nn.Parameter(torch.empty_like(linear.weight, dtype=torch.int8), requires_grad=False)
        self.scales = nn.Parameter(torch.empty_like(linear.weight[:, :1]), requires_grad=False)
        self.bias = linear.bias

    @classmethod
    def make_empty(cls, linear):
        return cls(linear)

    def stored_shapes(self):
        bias = {} if self.bias is None else {"bias": tuple(self.bias.shape)}
        return {"weight": tuple(self.codes.shape), **bias}

    def load_slice(self, name, stored):
        if name == "bias":
            return load_rows(self.bias, stored)
        first, last, codes = own_rows(self.codes)
        rows = stored[first:last]
        scales = rows.abs().amax(dim=1, keepdim=True) / 127
        codes.copy_((rows / scales).round())
        own_rows(self.scales)[2].copy_(scales)
        return rows

    def forward(self, x_BTI):
        return F.linear(x_BTI, self.codes.to(x_BTI.dtype) * self.scales, self.bias)

    def num_bytes(self):
        return sum(map(num_bytes, self.parameters()))


def test_a_format_with_parameters_of_its_own_is_loaded_counted_and_trained_through(inputs, monkeypatch):
    config, tokens = a_config(inputs / "qwen2", inputs / "rows.jsonl"), some_tokens(inputs, "qwen2")
    batch, plain = make_micro_batch((3,), tokens, CPU), built(config, inputs / "qwen2")
    monkeypatch.setattr(lora, "PlainBase", EightBits)
    eight = built(config, inputs / "qwen2")
    bases = lora.bases(eight.module)
    assert {type(base) for base in bases.values()} == {EightBits}
    saved = sum(3 * base.codes.numel() - 4 * len(base.codes) for base in bases.values())
    assert model_bytes(eight.module) == model_bytes(plain.module) - saved
    whole, rounded = plain.logits(batch).detach(), eight.logits(batch).detach()
    torch.testing.assert_close(rounded, whole, rtol=0, atol=0.1)
    assert not torch.allclose(rounded, whole, atol=1e-4)
    assert eight.adapters.keys() == plain.adapters.keys()
    state = train_a_little(eight)
    eight.logits(batch).square().sum().backward()
    assert torch.isfinite(state.gradient_P).all()
    assert all(parameter.grad.abs().max() > 0 for parameter in eight.adapters.values())


def test_what_a_format_reads_is_judged_before_it_is_rounded(inputs, monkeypatch, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(inputs / "qwen2", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(lora, "PlainBase", EightBits)
    with pytest.raises(TrainingError, match=r"model.layers.1.mlp.up_proj.weight in model.safetensors holds 1 value that is not finite"):
        built(a_config(folder, inputs / "rows.jsonl"), folder)
