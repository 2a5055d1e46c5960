"""The run record at the start of a job, and the numerics key of this process."""

import torch

from finetune_contract.run_order import RunOrder
from finetune_contract.state import InputDigests, NumericsKey, RunRecord
from finetune_trainer.attention import ATTENTION


def pack_capacity(order: RunOrder) -> int | None:
    """Tokens in one micro-batch; None: every row has one of its own."""
    if not order.config.training.packing:
        return None
    return order.overrides.pack_tokens or order.config.training.max_sequence_length


def numerics_of(order: RunOrder, device: torch.device) -> NumericsKey:
    """What decides the bytes beside the recipe."""
    is_cpu = device.type == "cpu"
    return NumericsKey(
        torch_version=torch.__version__,
        device=f"cpu {torch.backends.cpu.get_cpu_capability()}" if is_cpu else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads() if is_cpu else 1,
        attention=ATTENTION,
        pack_tokens=pack_capacity(order) or 0,
    )


def first_record(order: RunOrder, *, num_parameters: int, total_steps: int, device: torch.device) -> RunRecord:
    """The record before the first step."""
    return RunRecord(
        step=0,
        total_steps=total_steps,
        rows_consumed=0,
        tokens_total=0,
        sample_digest="",
        num_parameters=num_parameters,
        config_digest=order.config.trajectory_digest(),
        inputs=InputDigests(model=order.model_digest, dataset=order.dataset_digest, model_revision=order.model_revision),
        numerics=numerics_of(order, device),
    )
