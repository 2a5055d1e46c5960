"""Mean loss over the held-out rows, summed in their logical order: the same number for every world size."""

import torch

from finetune_trainer.batch import MicroBatch, Pack, count_targets, make_micro_batch, pack
from finetune_trainer.data import Data
from finetune_trainer.model import BuiltModel
from finetune_trainer.passes import loss_sum, num_dummy_passes
from finetune_trainer.ranks import Ranks, meet
from finetune_trainer.reduce import sum_over_ranks, sum_own
from finetune_trainer.report import Reporter


class Evaluation:
    """The packs of the held-out rows. Without such rows there is nothing to evaluate."""

    def __init__(self, data: Data, *, capacity: int | None) -> None:
        self._tokens = data.eval
        rows = [int(row) for row in data.eval_rows]
        self._packs: tuple[Pack, ...] = pack(rows, data.eval, capacity=capacity)
        self._num_targets = count_targets(rows, data.eval)

    @property
    def is_empty(self) -> bool:
        return not self._packs

    @torch.no_grad()
    def mean_loss(self, model: BuiltModel, ranks: Ranks, device: torch.device, reporter: Reporter) -> float:
        """Collective. Nats a token."""
        model.module.eval()

        def batch(index: int) -> MicroBatch:
            return make_micro_batch(self._packs[index], self._tokens, device)

        def leaf(index: int) -> torch.Tensor:
            loss = loss_sum(model, batch(index)).reshape(1)
            if loss.is_cuda:
                torch.cuda.synchronize(loss.device)  # a beat says that it is computed, not that it is queued
            reporter.beat()
            return loss

        num_packs = len(self._packs)
        sums = sum_own(num_packs, leaf, ranks)
        for _ in range(num_dummy_passes(num_packs, ranks, model.group_size)):
            loss_sum(model, batch(0))
            reporter.beat()
        meet(reporter.beat)  # whoever has fewer rows, or shorter ones, waits for the others as long as they compute
        total = sum_over_ranks(sums, num_packs, ranks, length=1, device=device)
        model.module.train()
        return float(total[0]) / self._num_targets
