"""Rotary frequencies of packed rows: those of each row by itself, whatever lies beside it or came before.

transformers chooses the frequencies of two kinds of rope by the longest row that it meets, and remembers it in the module. A pack would
lend the frequencies of its longest row to all, and a rank those of its history. Here each row of such a model is given to a new module.
"""

from typing import Any

import torch
from torch import nn

from finetune_contract.plurals import counted
from finetune_trainer.model_files import refused

# Their frequencies are the same for every row.
FIXED = frozenset({"default", "linear", "llama3", "proportional", "yarn"})
# Their frequencies depend on the length of the row.
BY_LENGTH = frozenset({"dynamic", "longrope"})
_TOO_LARGE = 1e9  # for a factor


class RotaryByRow(nn.Module):
    """In the place of transformers' module, for rope whose frequencies depend on the length. Without state and without memory."""

    def __init__(self, kind: type[nn.Module], config: Any) -> None:
        super().__init__()
        self._kind, self._config = kind, config

    @torch.no_grad()
    def forward(self, x_BTD: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, (1, T, D) each. A row starts where its positions start again at 0."""
        if position_ids.is_meta:  # a trial of shapes
            size = 2 * self._kind(self._config).inv_freq.numel()
            shape_1TD = x_BTD.new_zeros(*position_ids.shape, size)
            return shape_1TD, shape_1TD
        starts = (position_ids[0] == 0).nonzero().flatten().tolist()
        ends = [*starts[1:], position_ids.shape[1]]
        parts = [self._one(x_BTD, position_ids[:, first:last]) for first, last in zip(starts, ends, strict=True)]
        return torch.cat([cos for cos, _ in parts], dim=1), torch.cat([sin for _, sin in parts], dim=1)

    def _one(self, x_BTD: torch.Tensor, row_1T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.device(x_BTD.device):
            rotary = self._kind(self._config)
        cos_1TD, sin_1TD = rotary(x_BTD, row_1T)
        return cos_1TD, sin_1TD


def check_rope(config: Any, *, model_uri: str) -> None:
    """Raises TrainingError for rope of a kind that is not known to be the same for every row of a pack, or without its numbers."""
    found = getattr(config, "rope_parameters", None)
    rope: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = rope.get("rope_type")
    if not isinstance(kind, str) or kind not in FIXED | BY_LENGTH:
        shown = kind[:80] if isinstance(kind, str) else "none for the whole model"
        raise refused(model_uri, f"its rope is of the type {shown}; wanted one of {', '.join(sorted(FIXED | BY_LENGTH))}")
    # transformers only logs what is wrong with these, and a short row does not show it.
    if kind == "dynamic" and not _is_positive(rope.get("factor")):
        raise refused(model_uri, "its config.json is invalid: rope_parameters.factor must be a number above 0")
    if kind == "longrope":
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        share = rope.get("partial_rotary_factor", 1.0)
        size = int(head_dim * share) // 2 if _is_positive(share) else 0
        for name in ("short_factor", "long_factor"):
            factors = rope.get(name)
            if not isinstance(factors, list) or len(factors) != size or not all(map(_is_positive, factors)):
                raise refused(
                    model_uri, f"its config.json is invalid: rope_parameters.{name} must be a list of {counted(size, 'number')} above 0"
                )


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _TOO_LARGE


def compute_by_row(module: nn.Module) -> None:
    """Replace the rotary modules whose frequencies depend on the length."""
    for name, part in tuple(module.named_modules()):
        if is_rotary(part) and part.config.rope_parameters["rope_type"] in BY_LENGTH:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, RotaryByRow(type(part), part.config))


def is_rotary(part: nn.Module) -> bool:
    return type(part).__name__.endswith("RotaryEmbedding")
