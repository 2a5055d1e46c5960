"""The model families that can be trained, a row each: what the trainer knows about one family and not about all of them.

A new family is a row here and its recorded losses in tests/trainer/test_runs.py. tests/trainer/test_families.py holds every row against
transformers and peft: what it says about the model, logits with and without shards, and the exported adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths are those of modules in transformers' model, and so the first part of the names of tensors in its files.

    A default is what every family of today has. `tiny` is what the config of a tiny model says beside its sizes.
    """

    model_type: str  # as config.json says it
    names: tuple[str, ...]  # as a user says it
    modules: tuple[str, ...]  # code of transformers that is imported before workers are forked: none of them waits for it
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    # The last part of a name: all linear layers within `layers`, and nothing outside of them.
    linear_kinds: tuple[str, ...] = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    # Of every layer, as `layer_types` of config.json says it; attention.py computes no other.
    attention: Literal["full_attention"] = "full_attention"
    tiny: Mapping[str, Any] = field(default_factory=dict)


_ROWS = (
    Family(
        model_type="qwen3",
        names=("Qwen3",),
        modules=("transformers.models.qwen3.modeling_qwen3",),
        tiny={"tie_word_embeddings": True},
    ),
    Family(
        model_type="qwen2",
        names=("Qwen2", "Qwen2.5"),
        modules=("transformers.models.qwen2.modeling_qwen2",),
        tiny={"tie_word_embeddings": True},
    ),
    Family(
        model_type="llama",
        names=("Llama",),
        modules=("transformers.models.llama.modeling_llama",),
        tiny={"tie_word_embeddings": False},
    ),
)
FAMILIES: Mapping[str, Family] = {row.model_type: row for row in _ROWS}


def families_in_words() -> str:
    """Such as "Qwen3, Qwen2 and Qwen2.5, Llama"."""
    return ", ".join(" and ".join(family.names) for family in FAMILIES.values())
