"""A sign of life from within a pass: at each layer on the way forward, and again when its gradient comes back. It changes no number."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def beat_at_each_layer(layers: Iterable[nn.Module], beat: Callable[[], None]) -> None:
    """`layers` of the decoder. A recomputation of activations goes through them, too."""

    def at_layer(_layer: nn.Module, given: tuple[Any, ...]) -> None:
        beat()
        hidden = given[0] if given else None
        if isinstance(hidden, torch.Tensor) and hidden.requires_grad:
            hidden.register_hook(_beat_and_keep)

    def _beat_and_keep(_gradient: torch.Tensor) -> None:
        beat()

    for layer in layers:
        layer.register_forward_pre_hook(at_layer)
