"""How the frozen weights of an adapted linear layer lie in memory. There is one format: plain, in the precision of the job.

Another one, such as quantised weights, implements these methods and is chosen in lora.py. Frozen parameters outside of adapted
layers (embedding, norms, head, linear layers that nobody adapts) have no format: they are always plain.
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor


class BaseFormat(nn.Module, ABC):
    """A frozen linear layer. A module, so that its parameters are moved and sharded together with those of their layer."""

    @classmethod
    @abstractmethod
    def make_empty(cls, linear: nn.Linear) -> Self:
        """What stands in the place of `linear`: without memory if that is on the meta device, without content before `load_slice`."""

    @abstractmethod
    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors in the files that fill it, by the last part of their names: "weight" (out, in), "bias" (out)."""

    @abstractmethod
    def load_slice(self, name: str, stored: Any) -> torch.Tensor:
        """Take the rows of one stored tensor that this rank holds. Returns them as they were taken, for a look at their values."""

    @abstractmethod
    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        """(B, T, in) to (B, T, out), differentiable with respect to x."""

    @abstractmethod
    def num_bytes(self) -> int:
        """Of all shards together."""


class PlainBase(BaseFormat):
    """The weights of the linear layer itself."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    @classmethod
    def make_empty(cls, linear: nn.Linear) -> Self:
        return cls(linear)

    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}

    def load_slice(self, name: str, stored: Any) -> torch.Tensor:
        return load_rows(self.get_parameter(name), stored)

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return F.linear(x_BTI, self.weight, self.bias)

    def num_bytes(self) -> int:
        return sum(num_bytes(parameter) for parameter in self.parameters())


def num_bytes(parameter: nn.Parameter) -> int:
    """Of all shards together."""
    count: int = parameter.numel() * parameter.element_size()
    return count


def load_rows(parameter: nn.Parameter, stored: Any) -> torch.Tensor:
    """Copy the rows of a stored tensor that live here. Returns their memory."""
    first, last, local = own_rows(parameter)
    if last > first:
        local.copy_(stored[first:last])
    return local


def own_rows(parameter: nn.Parameter) -> tuple[int, int, torch.Tensor]:
    """Rows [first, last) of dimension 0 that live here, and their memory. FSDP2 cuts dimension 0 into chunks of equal size."""
    num_rows = parameter.shape[0]
    if not isinstance(parameter, DTensor):
        return 0, num_rows, parameter.data
    mesh = parameter.device_mesh
    chunk = -(-num_rows // mesh.size())
    first = min(chunk * mesh.get_local_rank(), num_rows)
    return first, min(first + chunk, num_rows), parameter.to_local()
