"""Builds the base model with its adapters: config on the meta device, own linears, shards, then each rank's bytes from the files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

# Imported here so that the zygote has done it: a worker must not wait for these.
from transformers.models.llama import modeling_llama as _llama  # noqa: F401
from transformers.models.qwen2 import modeling_qwen2 as _qwen2  # noqa: F401
from transformers.models.qwen3 import modeling_qwen3 as _qwen3  # noqa: F401

from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.attention import ATTENTION
from finetune_trainer.batch import MicroBatch
from finetune_trainer.layer_beat import beat_at_each_layer
from finetune_trainer.load import load_base
from finetune_trainer.lora import adapter_parameters, add_adapters, initialise_adapters
from finetune_trainer.ranks import Ranks
from finetune_trainer.shard import shard, shard_group_size

SUPPORTED = {"qwen3": "Qwen3", "qwen2": "Qwen2 and Qwen2.5", "llama": "Llama"}
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """`adapters` by name, sorted. `group_size` ranks share one copy of the base; passes must come in equal numbers to all of them."""

    module: nn.Module
    adapters: dict[str, nn.Parameter]
    adapted_kinds: tuple[str, ...]
    group_size: int

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """(K, V) in fp32: K positions whose next token carries loss, V words."""
        output = self.module(
            input_ids=batch.tokens_1T,
            position_ids=batch.positions_1T,
            segment_lengths=batch.segment_lengths,
            logits_to_keep=batch.kept_K,
            use_cache=False,
        )
        logits_1KV: torch.Tensor = output.logits
        return logits_1KV[0].float()


def read_model_config(folder: Path, *, model_uri: str) -> Any:
    """transformers' config of a model that can be trained here. Raises TrainingError in the user's words."""
    try:
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise _refused(model_uri, f"its config.json cannot be read: {error}") from None
    # Before transformers sees it: what it says of an architecture it half knows is for its developers.
    if model_type not in SUPPORTED:
        raise _refused(model_uri, f"is a {model_type} model; wanted one of {', '.join(SUPPORTED.values())}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(model_uri, f"its config.json is no valid {model_type} config: {error}") from None
    if getattr(config, "quantization_config", None) is not None:
        raise _refused(model_uri, "is quantised; wanted the original weights")
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        raise _refused(model_uri, f"has layers of type {', '.join(sorted(layer_types))}; wanted full attention in each")
    return config


def build_model(
    config: JobConfig, folder: Path, *, ranks: Ranks, device: torch.device, checkpointing: bool, beat: Callable[[], None] = lambda: None
) -> BuiltModel:
    """Collective when the base is sharded. No parameter is left on the meta device."""
    model_config = read_model_config(folder, model_uri=config.model.uri)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(model_config, dtype=_DTYPES[config.training.precision], attn_implementation=ATTENTION)
        adapted_kinds = add_adapters(module, config.adapter)
    if checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    group_size = shard_group_size(module, config.training.shard_across, ranks, device)
    if group_size > 1:
        shard(module, group_size, ranks, device)
    module.to_empty(device=device)
    module.tie_weights()  # to_empty gives each of two tied names memory of its own
    _compute_rotary_again(module, device)
    load_base(module, folder, model_uri=config.model.uri, beat=beat)
    beat_at_each_layer(module, beat)
    adapters = adapter_parameters(module)
    initialise_adapters(adapters, config.training.seed)
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not left, f"still without memory: {left}"
    module.train()
    return BuiltModel(module=module, adapters=adapters, adapted_kinds=adapted_kinds, group_size=group_size)


def _compute_rotary_again(module: nn.Module, device: torch.device) -> None:
    """Frequencies are in no file, and `to_empty` left garbage in them: their modules are initialised a second time."""
    for part in module.modules():
        if type(part).__name__.endswith("RotaryEmbedding"):
            with torch.device(device):
                part.__init__(part.config)


def _refused(model_uri: str, problem: str) -> TrainingError:
    return TrainingError(FailureClass.USER_ERROR, f"spec.model.uri: {model_uri}: {problem}")
