"""Shares one copy of the frozen base among a group of ranks by FSDP2; adapters stay whole on every rank.

The group is the smallest that fits, so between groups nothing of the base travels.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import counted, verb
from finetune_trainer.base_format import num_bytes
from finetune_trainer.lora import adapter_parameters, bases, parameters_beside_bases
from finetune_trainer.ranks import Ranks

# The rest is for activations, gathered layers and adapters.
_SHARE_FOR_BASE = 0.6
ShardAcross = Literal["auto", "process", "member", "members"]


def shard_group_size(module: nn.Module, across: ShardAcross, ranks: Ranks, device: torch.device) -> int:
    """How many ranks share one copy: 1, those of a member, or all. Raises TrainingError when the base fits in no way."""
    sizes = {"process": 1, "member": ranks.local_world_size, "members": ranks.world_size}
    if across != "auto":
        return sizes[across]
    if device.type == "cpu":
        return 1
    wanted_bytes = model_bytes(module)
    available = _SHARE_FOR_BASE * torch.cuda.get_device_properties(device).total_memory
    for size in sizes.values():
        if wanted_bytes / size <= available:
            return size
    offered = (
        f"{counted(ranks.world_size, 'device')} {verb(ranks.world_size, 'offers', 'offer')} {ranks.world_size * available / 2**30:.0f} GiB"
    )
    message = f"the base model takes {wanted_bytes / 2**30:.0f} GiB, but {offered} for it; give more nodes or a smaller spec.model"
    raise TrainingError(FailureClass.OUT_OF_MEMORY, message)


def model_bytes(module: nn.Module) -> int:
    """Base and adapters, each once."""
    return sum(map(num_bytes, parameters_beside_bases(module).values())) + sum(base.num_bytes() for base in bases(module).values())


def shard(module: nn.Module, layers: Iterable[nn.Module], group_size: int, ranks: Ranks, device: torch.device) -> None:
    """FSDP2 over each decoder layer and the root. Call before any parameter has memory."""
    shape = (ranks.world_size // group_size, group_size)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("copy", "shard"))["shard"]
    adapters = set(adapter_parameters(module).values())
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=adapters)
    fully_shard(module, mesh=mesh, ignored_params=adapters)
