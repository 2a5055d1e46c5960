"""The model that is trained is the model that peft loads, and what cannot be trained is refused in the user's words."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.trainer.formations import a_config
from transformers import AutoModelForCausalLM

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.batch import make_micro_batch
from finetune_trainer.export import export_adapter
from finetune_trainer.families import FAMILIES
from finetune_trainer.lora import LoraLinear
from finetune_trainer.model import build_model
from finetune_trainer.optimise import FlatState
from finetune_trainer.ranks import Ranks
from finetune_trainer.rows import read_rows
from finetune_trainer.tokenise import load_tokenizer, tokenise

ALONE = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, node_rank=0)
CPU = torch.device("cpu")


def built(config, folder, **changes):
    return build_model(config, folder, ranks=ALONE, device=CPU, checkpointing=False, **changes)


def some_tokens(inputs, model):
    tokenizer = load_tokenizer(inputs / model, model_uri="file:///model")
    rows = read_rows(inputs / "rows.jsonl", field="spec.dataset.uri", form="auto")
    return tokenise(rows, tokenizer, limit=96, train_on="all", template=None)


def train_a_little(model):
    """Weights as training would leave them: no B is zero any more."""
    state = FlatState(model.adapters, CPU)
    state.weights_P += 0.05 * torch.randn(state.num_parameters, generator=torch.Generator().manual_seed(1))
    return state


def logits_alone(module, tokens, row):
    """(targets, V) of one row by itself, as anybody computes them."""
    ids_1T = torch.from_numpy(tokens.ids[tokens.starts[row] : tokens.starts[row + 1]]).long()[None]
    with torch.no_grad():
        return module(input_ids=ids_1T).logits[0, :-1]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_adapter_starts_as_the_identity(architecture, inputs):
    config = a_config(inputs / architecture, inputs / "rows.jsonl")
    model, tokens = built(config, inputs / architecture), some_tokens(inputs, architecture)
    base = AutoModelForCausalLM.from_pretrained(inputs / architecture, dtype=torch.float32)
    ours = model.logits(make_micro_batch((3,), tokens, CPU)).detach()
    torch.testing.assert_close(ours, logits_alone(base, tokens, 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_peft_computes_the_trained_models_logits_from_the_exported_adapter(architecture, inputs, tmp_path):
    config = a_config(inputs / architecture, inputs / "rows.jsonl", adapter={"rank": 4, "alpha": 12})
    model, tokens = built(config, inputs / architecture), some_tokens(inputs, architecture)
    train_a_little(model)
    export_adapter(tmp_path / "a", config=config, adapters=model.adapters, kinds=model.adapted_kinds, model_dir=inputs / architecture)
    base = AutoModelForCausalLM.from_pretrained(inputs / architecture, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, tmp_path / "a")
    theirs = logits_alone(loaded, tokens, 3)
    ours = model.logits(make_micro_batch((3,), tokens, CPU)).detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(theirs, logits_alone(loaded.unload(), tokens, 3), atol=1e-2)


def test_a_row_never_sees_its_neighbours(inputs):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl")
    model, tokens = built(config, inputs / "qwen3"), some_tokens(inputs, "qwen3")
    train_a_little(model)
    together = model.logits(make_micro_batch((5, 3, 8), tokens, CPU)).detach()
    alone = torch.cat([model.logits(make_micro_batch((row,), tokens, CPU)).detach() for row in (5, 3, 8)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_only_named_kinds_are_adapted(inputs):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", adapter={"targetModules": ["v_proj", "q_proj"]})
    model = built(config, inputs / "qwen3")
    assert model.adapted_kinds == ("q_proj", "v_proj")
    assert len(model.adapters) == 2 * 2 * 2


def test_no_parameter_of_the_base_is_trained(inputs):
    model = built(a_config(inputs / "llama", inputs / "rows.jsonl"), inputs / "llama")
    trained = {name for name, parameter in model.module.named_parameters() if parameter.requires_grad}
    assert trained == set(model.adapters)
    assert all(module.base.weight.requires_grad is False for module in model.module.modules() if isinstance(module, LoraLinear))


def test_the_same_weights_give_the_same_files(inputs, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl")
    for name in ("a", "b"):
        model = built(config, inputs / "qwen3")
        export_adapter(tmp_path / name, config=config, adapters=model.adapters, kinds=model.adapted_kinds, model_dir=inputs / "qwen3")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert "tokenizer.json" in files
    assert "chat_template.jinja" in files
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def without_config(folder):
    (folder / "config.json").unlink()


def other_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}))


def quantised(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def half_a_file(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")


def other_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (without_config, "its config.json cannot be read"),
        (other_architecture, "has the architecture gemma2; wanted one of Qwen3, Qwen2 and Qwen2.5, Llama"),
        (quantised, "is quantised; wanted the original weights"),
        (without_weights, "neither model.safetensors nor model.safetensors.index.json is there"),
        (half_a_file, "its weights cannot be read"),
        (without_a_tensor, "tensor model.norm.weight is in none of its files"),
        (other_shape, "tensor model.norm.weight has the shape (7,), its config.json wants (32,)"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_by_name(spoil, problem, inputs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(inputs / "qwen3", folder)
    spoil(folder)
    with pytest.raises(TrainingError) as raised:
        built(a_config(folder, inputs / "rows.jsonl"), folder)
    assert raised.value.failure_class is FailureClass.USER_ERROR
    assert raised.value.message.startswith(f"spec.model.uri: file://{folder}: ")
    assert problem in raised.value.message


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(inputs):
    config = a_config(inputs / "llama", inputs / "rows.jsonl", adapter={"targetModules": ["query"]})
    with pytest.raises(
        TrainingError, match=r"spec.adapter.targetModules: no linear layer of this model is called query.*down_proj, gate_proj"
    ):
        built(config, inputs / "llama")
