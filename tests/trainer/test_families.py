"""Every row of the families: true of transformers' model, computed like it with and without shards, told to users, its losses recorded.

That peft computes the same from the exported adapter is asked for every row in test_model.py, that the losses stay in test_runs.py.
"""

import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.builders.machine import HANG_SECONDS
from tests.trainer.formations import ROOT, a_config
from tests.trainer.test_model import CPU, built, logits_alone, some_tokens, train_a_little
from tests.trainer.test_runs import RECORDED_LOSSES
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.batch import make_micro_batch
from finetune_trainer.families import FAMILIES
from finetune_trainer.shard import model_bytes

ROW = 3
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(scope="module")
def sharded(inputs):
    """family -> what two ranks that share the base computed; one start of torchrun for all of them."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tests.trainer.sharded_logits", str(inputs), str(ROW)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    return {name: load_file(inputs / f"{name}-sharded.safetensors") for name in FAMILIES}


@families
def test_a_row_is_true_of_transformers_model(family, inputs):
    config = AutoConfig.from_pretrained(inputs / family.model_type)
    model = AutoModelForCausalLM.from_config(config)
    assert config.model_type == family.model_type
    assert type(model).__module__ in family.modules
    layers = model.get_submodule(family.layers)
    assert len(layers) == config.num_hidden_layers
    assert model.get_submodule(family.embedding) is model.get_input_embeddings()
    assert model.get_submodule(family.head) is model.get_output_embeddings()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {family.head}
    assert {name.rpartition(".")[2] for name in linear} == set(family.linear_kinds)
    assert all(name.startswith(f"{family.layers}.") for name in linear)
    parts = tuple(f"{part}." for part in (family.layers, family.embedding, family.norm, family.head))
    assert [name for name in model.state_dict() if not name.startswith(parts)] == []


@families
def test_logits_with_and_without_shards_are_those_of_transformers(family, inputs, sharded):
    folder = inputs / family.model_type
    model, tokens = built(a_config(folder, inputs / "rows.jsonl"), folder), some_tokens(inputs, family.model_type)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    batch, found = make_micro_batch((ROW,), tokens, CPU), sharded[family.model_type]
    whole = model.logits(batch).detach()
    torch.testing.assert_close(whole, logits_alone(base, tokens, ROW), rtol=1e-5, atol=1e-5)
    assert torch.equal(found["untrained"], whole)
    train_a_little(model)
    assert torch.equal(found["trained"], model.logits(batch).detach())
    assert not torch.allclose(found["trained"], whole, atol=1e-2)
    num_frozen = sum(parameter.numel() for parameter in model.module.parameters() if not parameter.requires_grad)
    assert int(found["share"]) == pytest.approx(num_frozen / 2, rel=0.01)


@families
def test_the_bytes_of_a_model_are_those_of_its_parameters(family, inputs):
    folder = inputs / family.model_type
    config = a_config(folder, inputs / "rows.jsonl", training={"precision": "bf16"}, adapter={"targetModules": [family.linear_kinds[0]]})
    module = built(config, folder).module
    assert model_bytes(module) == sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def test_every_family_has_recorded_losses_and_is_named_to_users():
    assert RECORDED_LOSSES.keys() == FAMILIES.keys()
    names = [name for family in FAMILIES.values() for name in family.names]
    for page in ("README.md", "examples/README.md"):
        words = (ROOT / page).read_text()
        assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b(?!\.\d)", words)] == []
