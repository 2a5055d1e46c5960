"""Attention of packed rows: each segment attends to itself only, causally, by one fused call a segment and no mask at all.

Faster than a block-diagonal mask (1.3x measured on CPU), and deterministic where the fused kernel is. Registered with transformers
under ATTENTION; the segments come with the model call as the keyword `segment_lengths`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

ATTENTION = "finetune_segments"


def attend_in_segments(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BGTD: torch.Tensor,
    value_BGTD: torch.Tensor,
    attention_mask: None,
    *,
    segment_lengths: tuple[int, ...],
    scaling: float,
    **_ignored: Any,
) -> tuple[torch.Tensor, None]:
    """(B, T, H, D). B batch, T tokens, H query heads, G key-value heads, D head size; the lengths sum to T."""
    assert attention_mask is None, "segments replace the mask"
    key_BHTD, value_BHTD = _for_all_heads(key_BGTD, query_BHTD), _for_all_heads(value_BGTD, query_BHTD)
    lengths = list(segment_lengths)
    segments = zip(query_BHTD.split(lengths, 2), key_BHTD.split(lengths, 2), value_BHTD.split(lengths, 2), strict=True)
    attended = [F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling) for query, key, value in segments]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _for_all_heads(shared_BGTD: torch.Tensor, query_BHTD: torch.Tensor) -> torch.Tensor:
    batch, num_groups, length, size = shared_BGTD.shape
    heads_per_group = query_BHTD.shape[1] // num_groups
    return shared_BGTD[:, :, None].expand(-1, -1, heads_per_group, -1, -1).reshape(batch, -1, length, size)


AttentionInterface.register(ATTENTION, attend_in_segments)
