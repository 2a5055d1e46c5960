"""config.json of a base model, read and judged: an architecture that we train, numbers that can be, frequencies that we compute alike.

Nothing in it may end a worker as a crash: what is wrong with it is the user's to mend, by name.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.attention import ATTENTION
from finetune_trainer.families import FAMILIES, Family, families_in_words
from finetune_trainer.model_files import blaming_the_model, check_links, read_json_object, refused
from finetune_trainer.rotary import check_rope, compute_by_row

_PROBE_TOKENS = 2

# Imported here so that the zygote has done it: a worker must not wait for these.
for _module in (module for family in FAMILIES.values() for module in family.modules):
    import_module(_module)


class _Sizes(BaseModel):
    """Bounds far beyond any model: a number past them is a mistake, or means to fill the memory of the node."""

    model_config = ConfigDict(strict=True, from_attributes=True, allow_inf_nan=False)

    vocab_size: int = Field(ge=1, le=1 << 24)
    hidden_size: int = Field(ge=1, le=1 << 18)
    intermediate_size: int = Field(ge=1, le=1 << 20)
    num_hidden_layers: int = Field(ge=1, le=1024)
    num_attention_heads: int = Field(ge=1, le=4096)
    num_key_value_heads: int = Field(ge=1, le=4096)
    head_dim: int | None = Field(default=None, ge=2, le=1 << 14, multiple_of=2)  # Qwen2 has none: a head's share of hidden_size
    max_position_embeddings: int = Field(ge=1, le=1 << 30)
    rms_norm_eps: float = Field(ge=0, le=1)
    tie_word_embeddings: bool


def read_model_config(folder: Path, *, model_uri: str) -> Any:
    """transformers' config of a model that can be trained here. Raises TrainingError in the user's words."""
    check_links(folder, model_uri=model_uri)
    written = read_json_object(folder, "config.json", model_uri=model_uri)
    model_type = written.get("model_type")
    # Before transformers sees it: what it says of an architecture it half knows is for its developers.
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        shown = model_type[:80] if isinstance(model_type, str) else type(model_type).__name__
        raise refused(model_uri, f"has the architecture {shown}; wanted one of {families_in_words()}")
    if written.get("quantization_config") is not None:
        raise refused(model_uri, "is quantised; wanted the original weights")
    with blaming_the_model(model_uri, f"its config.json is not a valid {model_type} config"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    _check_sizes(config, model_uri)
    _check_layer_types(config, FAMILIES[model_type], model_uri)
    check_rope(config, model_uri=model_uri)
    return config


def build_on_meta(config: Any, *, dtype: torch.dtype, model_uri: str) -> nn.Module:
    """The model without memory, each row with its own rope.

    It is tried on two tokens, so that a config that cannot compute is refused before a byte is read.
    """
    with blaming_the_model(model_uri, "its config.json does not describe a model that can compute"), torch.device("meta"):
        module: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
        compute_by_row(module)
        ids_1T = torch.zeros(1, _PROBE_TOKENS, dtype=torch.long)
        with torch.no_grad():
            module(input_ids=ids_1T, position_ids=ids_1T, segment_lengths=(_PROBE_TOKENS,), use_cache=False)
    return module


def longest_sequence(config: Any) -> int:
    """Tokens that the model has learnt to place: its max_position_embeddings, stretched as its rope says."""
    rope = config.rope_parameters
    longest = int(config.max_position_embeddings)
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings", longest)
    if rope["rope_type"] in {"dynamic", "linear", "yarn"} and isinstance(factor, int | float) and isinstance(original, int):
        return max(longest, int(factor * original))
    return longest


def _check_sizes(config: Any, model_uri: str) -> None:
    try:
        sizes = _Sizes.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise refused(model_uri, f"its config.json is invalid: {field}: {first['msg']}") from None
    if sizes.num_attention_heads % sizes.num_key_value_heads != 0:
        heads = f"num_attention_heads {sizes.num_attention_heads} is not a multiple of num_key_value_heads {sizes.num_key_value_heads}"
        raise refused(model_uri, f"its config.json is invalid: {heads}")
    if sizes.head_dim is None and sizes.hidden_size % (2 * sizes.num_attention_heads) != 0:
        heads = f"hidden_size {sizes.hidden_size} is not an even multiple of num_attention_heads {sizes.num_attention_heads}"
        raise refused(model_uri, f"its config.json is invalid: {heads}")


def _check_layer_types(config: Any, family: Family, model_uri: str) -> None:
    with blaming_the_model(model_uri, "its config.json has layer_types that cannot be read"):
        layer_types = {str(kind) for kind in getattr(config, "layer_types", None) or [family.attention]}
    if layer_types != {family.attention}:
        shown, wanted = ", ".join(sorted(layer_types))[:200], family.attention.replace("_", " ")
        raise refused(model_uri, f"has layers of type {shown}; wanted {wanted} in each")
