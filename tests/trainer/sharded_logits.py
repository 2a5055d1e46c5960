"""One of two ranks that share the base of each family: writes the logits of a row, of the base and of a trained adapter.

torchrun -m tests.trainer.sharded_logits FOLDER ROW, where FOLDER has rows.jsonl and a model for each family.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tests.trainer.formations import a_config
from tests.trainer.test_model import some_tokens, train_a_little
from torch.distributed.tensor import DTensor

from finetune_trainer.batch import make_micro_batch
from finetune_trainer.families import FAMILIES
from finetune_trainer.model import build_model
from finetune_trainer.ranks import choose_device, join_process_group, ranks_from_environment


def main(inputs: Path, row: int) -> None:
    ranks = ranks_from_environment()
    device = choose_device(ranks)
    join_process_group(device, None)
    for name in FAMILIES:
        config = a_config(inputs / name, inputs / "rows.jsonl", training={"shardAcross": "member"})
        model = build_model(config, inputs / name, ranks=ranks, device=device, checkpointing=False)
        # Before a pass, which leaves the embedding gathered.
        share = sum(parameter.to_local().numel() for parameter in model.module.parameters() if isinstance(parameter, DTensor))
        batch = make_micro_batch((row,), some_tokens(inputs, name), device)
        untrained = model.logits(batch).detach()
        train_a_little(model)
        trained = model.logits(batch).detach()
        if ranks.is_leader:
            save_file({"untrained": untrained, "trained": trained, "share": torch.tensor(share)}, inputs / f"{name}-sharded.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
