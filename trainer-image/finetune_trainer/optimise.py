"""Flat state and the one optimizer: AdamW, clipping by global norm, and the learning rate's schedule.

Legend: P adapter weights. The state is one fp32 vector (weights | first moment | second moment) of 3P, so that a snapshot is one copy.
AdamW: https://arxiv.org/abs/1711.05101.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from finetune_contract.config import TrainingConfig


class FlatState:
    """Adapter weights, moments and gradient as flat vectors; the model's parameters are views of `weights_P` and `gradient_P`.

    `is_lent`: a snapshot may be reading it, and nobody may change it (snapshots.py).
    """

    def __init__(self, adapters: dict[str, nn.Parameter], device: torch.device) -> None:
        self.num_parameters = sum(parameter.numel() for parameter in adapters.values())
        self.state_3P = torch.zeros(3 * self.num_parameters, dtype=torch.float32, device=device)
        self.weights_P, self.mean_P, self.square_P = self.state_3P.split(self.num_parameters)
        self.gradient_P = torch.zeros_like(self.weights_P)
        self.is_lent = False
        offset = 0
        for parameter in adapters.values():
            place = slice(offset, offset + parameter.numel())
            self.weights_P[place] = parameter.detach().reshape(-1)
            parameter.data = self.weights_P[place].view(parameter.shape)
            parameter.grad = self.gradient_P[place].view(parameter.shape)
            offset = place.stop

    def fingerprint(self) -> torch.Tensor:
        """Two int64 on the CPU that differ when any bit of the state does, but for collisions: a sum, and a sum weighted by place."""
        words = self.state_3P.view(torch.int32)
        columns = math.isqrt(words.numel()) + 1
        folded = nn.functional.pad(words, (0, columns * (-(-words.numel() // columns)) - words.numel())).view(-1, columns)
        per_column, per_row = folded.sum(0, dtype=torch.int64), folded.sum(1, dtype=torch.int64)
        return torch.stack([_weighted(per_column), _weighted(per_row)]).cpu()


def _weighted(sums: torch.Tensor) -> torch.Tensor:
    return (sums * torch.arange(1, sums.numel() + 1, device=sums.device)).sum()


def learning_rate(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Rate of the step with this index (from 0): linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(config.warmup_ratio * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * _decay(config.schedule, (step - warmup) / max(1, total_steps - warmup))


def _decay(schedule: Literal["cosine", "linear", "constant"], done: float) -> float:
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0


def clip(gradient_P: torch.Tensor, max_norm: float) -> float:
    """Scale the gradient in place to a global norm of `max_norm` at most; the norm before. Not finite in, not finite out."""
    norm = float(torch.linalg.vector_norm(gradient_P))
    if norm > max_norm:
        gradient_P.mul_(max_norm / (norm + 1e-6))
    return norm


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Its settings, apart from the rate: that has a schedule."""

    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float


def adamw_of(config: TrainingConfig) -> AdamW:
    return AdamW(beta1=config.adam_beta1, beta2=config.adam_beta2, epsilon=config.adam_epsilon, weight_decay=config.weight_decay)


def update(state: FlatState, gradient_P: torch.Tensor, adamw: AdamW, *, step: int, rate: float) -> None:
    """One step in place; `step` counts from 1."""
    assert not state.is_lent, "an update would tear the snapshot that is being written"
    state.mean_P.lerp_(gradient_P, 1 - adamw.beta1)
    state.square_P.mul_(adamw.beta2).addcmul_(gradient_P, gradient_P, value=1 - adamw.beta2)
    root = (state.square_P / (1 - adamw.beta2**step)).sqrt_().add_(adamw.epsilon)
    state.weights_P.mul_(1 - rate * adamw.weight_decay).addcdiv_(state.mean_P, root, value=-rate / (1 - adamw.beta1**step))
