"""Builds the base model with its adapters: config on the meta device, own linears, shards, then each rank's bytes from the files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from finetune_contract.config import JobConfig
from finetune_trainer.batch import MicroBatch
from finetune_trainer.families import FAMILIES
from finetune_trainer.layer_beat import beat_at_each_layer
from finetune_trainer.load import load_base
from finetune_trainer.lora import adapter_parameters, add_adapters, initialise_adapters
from finetune_trainer.model_config import build_on_meta, longest_sequence, read_model_config
from finetune_trainer.ranks import Ranks
from finetune_trainer.rotary import is_rotary
from finetune_trainer.shard import shard, shard_group_size

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BuiltModel:
    """`adapters` by name, sorted. `group_size` ranks share one copy of the base; passes must come in equal numbers to all of them.

    `vocab_size` rows has the embedding; `longest` tokens has a row that the model has learnt to place.
    """

    module: nn.Module
    adapters: dict[str, nn.Parameter]
    adapted_kinds: tuple[str, ...]
    group_size: int
    vocab_size: int
    longest: int

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


def build_model(
    config: JobConfig, folder: Path, *, ranks: Ranks, device: torch.device, checkpointing: bool, beat: Callable[[], None] = lambda: None
) -> BuiltModel:
    """Collective when the base is sharded. No parameter is left on the meta device."""
    model_config = read_model_config(folder, model_uri=config.model.uri)
    family = FAMILIES[model_config.model_type]
    module = build_on_meta(model_config, dtype=_DTYPES[config.training.precision], model_uri=config.model.uri)
    with torch.device("meta"):
        adapted_kinds = add_adapters(module, config.adapter, family)
    layers = tuple(module.get_submodule(family.layers).children())
    if checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    group_size = shard_group_size(module, config.training.shard_across, ranks, device)
    if group_size > 1:
        shard(module, layers, group_size, ranks, device)
    module.to_empty(device=device)
    module.tie_weights()  # to_empty gives each of two tied names memory of its own
    _compute_rotary_again(module, device)
    load_base(module, folder, family=family, model_uri=config.model.uri, beat=beat)
    beat_at_each_layer(layers, beat)
    adapters = adapter_parameters(module)
    initialise_adapters(adapters, config.training.seed)
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not left, f"still without memory: {left}"
    module.train()
    return BuiltModel(
        module=module,
        adapters=adapters,
        adapted_kinds=adapted_kinds,
        group_size=group_size,
        vocab_size=model_config.vocab_size,
        longest=longest_sequence(model_config),
    )


def _compute_rotary_again(module: nn.Module, device: torch.device) -> None:
    """Frequencies are in no file, and `to_empty` left garbage in them: their modules are initialised a second time."""
    for part in module.modules():
        if is_rotary(part):
            with torch.device(device):
                part.__init__(part.config)
