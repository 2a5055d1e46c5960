"""Where this process stands among all, on which device it trains, and the process group they share."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from finetune_contract.times import MEETING_POLL_SECONDS
from finetune_trainer.exchange import forbid_pickle
from finetune_trainer.sealed_store import SealedStore

# Agents watch the beat and end a formation that hangs; a timeout here would only race with them, or with a peer that prepares its data.
_COLLECTIVE_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Position of one process; `node_rank` is the member's index in the formation."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int

    @property
    def is_local_leader(self) -> bool:
        return self.local_rank == 0

    @property
    def is_leader(self) -> bool:
        return self.rank == 0


def ranks_from_environment() -> Ranks:
    """What torchrun's engine puts into the environment of each worker."""
    rank, local_world_size = int(os.environ["RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    return Ranks(
        rank=rank,
        local_rank=int(os.environ["LOCAL_RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_world_size=local_world_size,
        node_rank=rank // local_world_size,
    )


def choose_device(ranks: Ranks) -> torch.device:
    """One CUDA device for each local rank where there is one, else the CPU on one thread.

    One thread because the number of threads changes the bytes: it is a part of the numerics key.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", ranks.local_rank)
    torch.cuda.set_device(device)
    return device


def join_process_group(device: torch.device, secret: str | None) -> None:
    """Meet all ranks of the formation; small integers always travel over gloo. Nothing that a peer sends is unpickled.

    With the `secret` of the formation, the store at which they meet is sealed by it. Without (plain torchrun, an operator of
    contract 1) they meet as torchrun says.
    """
    forbid_pickle()
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    if secret is None:
        dist.init_process_group(backend, timeout=_COLLECTIVE_TIMEOUT)
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # torchrun's launcher on node rank 0 keeps the store itself, and says so.
    is_keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = SealedStore(dist.TCPStore(address, port, is_master=is_keeper, timeout=_COLLECTIVE_TIMEOUT), secret)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_COLLECTIVE_TIMEOUT)


def meet(beat: Callable[[], None]) -> None:
    """Collective. Until every rank is here, however long its own work takes. Beats meanwhile: the late one's agent watches it."""
    work = dist.all_reduce(torch.zeros(1), async_op=True)
    while not work.is_completed():
        beat()
        time.sleep(MEETING_POLL_SECONDS)
    work.wait()
