"""Our LoRA linear: adapters in fp32, cast to the activation's type for the product. peft's mathematics and peft's names at export.

LoRA: https://arxiv.org/abs/2106.09685. peft casts the activation to fp32 in every layer instead: twice the saved memory.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from finetune_contract.config import AdapterConfig
from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.base_format import BaseFormat, PlainBase
from finetune_trainer.families import Family
from finetune_trainer.seeds import seed_of

ALL_LINEAR = "all-linear"


class LoraLinear(nn.Module):
    """y = base(x) + (alpha / rank) B A dropout(x). A is (rank, in), B is (out, rank)."""

    def __init__(self, linear: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        self.base: BaseFormat = PlainBase.make_empty(linear)
        self.lora_A = nn.Parameter(torch.empty(config.rank, linear.in_features, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.empty(linear.out_features, config.rank, dtype=torch.float32))
        self.scaling = config.alpha / config.rank
        self.dropout = config.dropout

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        dropped_BTI = F.dropout(x_BTI, self.dropout, self.training) if self.dropout > 0 else x_BTI
        low_BTR = F.linear(dropped_BTI, self.lora_A.to(x_BTI.dtype))
        update_BTO = F.linear(low_BTR, self.lora_B.to(x_BTI.dtype)) * self.scaling
        result: torch.Tensor = self.base(x_BTI) + update_BTO
        return result


def add_adapters(model: nn.Module, config: AdapterConfig, family: Family) -> tuple[str, ...]:
    """Freeze the model and wrap the linear layers of its decoder layers; the wrapped kinds, sorted, such as ("q_proj", "v_proj").

    Raises TrainingError if a named kind does not exist. The output layer is never wrapped.
    """
    model.requires_grad_(False)
    modules = model.get_submodule(family.layers).named_modules(prefix=family.layers)
    linear = {name: module for name, module in modules if isinstance(module, nn.Linear)}
    kinds = sorted(family.linear_kinds)
    assert kinds == sorted({name.rsplit(".", 1)[-1] for name in linear}), "the row of this family names other linear layers"
    wanted = kinds if ALL_LINEAR in config.target_modules else sorted(set(config.target_modules))
    unknown = sorted(kind for kind in set(config.target_modules) - {ALL_LINEAR} if kind not in kinds)
    if unknown:
        message = f"spec.adapter.targetModules: no linear layer of this model is called {' or '.join(unknown)}; it has {', '.join(kinds)}"
        raise TrainingError(FailureClass.USER_ERROR, message)
    for name, module in linear.items():
        parent, _, kind = name.rpartition(".")
        if kind in wanted:
            setattr(model.get_submodule(parent), kind, LoraLinear(module, config))
    return tuple(wanted)


def bases(model: nn.Module) -> dict[str, BaseFormat]:
    """By the name of their linear layer in transformers' model."""
    return {name: module.base for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def parameters_beside_bases(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name: those of adapters, and frozen ones that are in no adapted layer."""
    return {name: parameter for name, parameter in model.named_parameters() if ".base." not in name}


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, sorted: the order of the flat state."""
    found = {name: parameter for name, parameter in model.named_parameters() if name.rsplit(".", 1)[-1] in ("lora_A", "lora_B")}
    return dict(sorted(found.items()))


@torch.no_grad()
def initialise_adapters(parameters: dict[str, nn.Parameter], seed: int) -> None:
    """A uniform as in peft (Kaiming with a = sqrt(5)), B zero: the adapter starts as the identity.

    Each A is drawn by its own name, so that it depends neither on the world size nor on the order of construction.
    """
    for name, parameter in parameters.items():
        if name.endswith("lora_B"):
            parameter.zero_()
            continue
        bound = 1 / math.sqrt(parameter.shape[1])
        generator = torch.Generator().manual_seed(seed_of(seed, "adapter", name))
        parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator))
