"""One step's gradient: forward and backward of own micro-batches, dummy passes where a shard group needs them, canonical sum."""

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from finetune_trainer.batch import MicroBatch, Pack, StepRows, count_targets, make_micro_batch, pack
from finetune_trainer.model import BuiltModel
from finetune_trainer.optimise import FlatState
from finetune_trainer.ranks import Ranks
from finetune_trainer.reduce import own_leaves, sum_over_ranks, sum_own
from finetune_trainer.report import Reporter
from finetune_trainer.seeds import seed_of
from finetune_trainer.stragglers import Work
from finetune_trainer.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """All micro-batches of one step, the same on every rank. `num_targets` divides the loss."""

    index: int
    rows: StepRows
    packs: tuple[Pack, ...]
    num_targets: int
    num_tokens: int


def plan_step(index: int, rows: StepRows, tokens: Tokens, *, capacity: int | None) -> StepBatch:
    return StepBatch(
        index=index,
        rows=rows,
        packs=pack(rows.rows, tokens, capacity=capacity),
        num_targets=count_targets(rows.rows, tokens),
        num_tokens=sum(tokens.length(row) for row in rows.rows),
    )


def loss_sum(model: BuiltModel, batch: MicroBatch) -> torch.Tensor:
    """Cross entropy summed over the tokens that carry loss, in nats."""
    return F.cross_entropy(model.logits(batch), batch.targets_K, reduction="sum")


class GradientPass:
    """Computes the mean gradient of a step. Parts it needs in each step are given once."""

    def __init__(self, model: BuiltModel, state: FlatState, tokens: Tokens, ranks: Ranks, *, seed: int, reporter: Reporter) -> None:
        self._model, self._state, self._tokens, self._ranks = model, state, tokens, ranks
        self._seed, self._reporter = seed, reporter
        self._checks: dict[int, torch.Tensor] = {}  # own micro-batch -> one number that is finite if its gradient and loss are
        self.own_work = Work(microseconds=0, num_passes=0, num_tokens=0)

    def gradient(self, step: StepBatch) -> tuple[torch.Tensor, float]:
        """Collective. (gradient of the mean loss, P floats; mean loss), the same bytes on every rank."""
        num_weights, device = self._state.num_parameters, self._state.gradient_P.device

        def leaf(index: int) -> torch.Tensor:
            loss = self._one_pass(step, index)
            self._reporter.beat()
            vector = torch.cat([self._state.gradient_P, loss.reshape(1)])
            self._checks[index] = vector.sum()
            return vector

        self._checks.clear()
        started, num_packs = time.perf_counter(), len(step.packs)
        sums = sum_own(num_packs, leaf, self._ranks)
        for _ in range(num_dummy_passes(num_packs, self._ranks, self._model.group_size)):
            self._one_pass(step, 0)
            self._reporter.beat()
        self.own_work = self._measure(step, started, device)
        self._reporter.begin_batch(max(sum(self._tokens.length(row) for row in members) for members in step.packs))  # a peer may have it
        with self._reporter.waiting_for_peers():
            total = sum_over_ranks(sums, num_packs, self._ranks, length=num_weights + 1, device=device)
        return total[:num_weights], float(total[num_weights])

    def not_finite(self) -> list[int]:
        """Own micro-batches of the newest step whose gradient or loss is not finite."""
        return [index for index, check in self._checks.items() if not bool(torch.isfinite(check))]

    def _measure(self, step: StepBatch, started: float, device: torch.device) -> Work:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # costs nothing: the reduction waits for the same passes
        own = [row for index in self._checks for row in step.packs[index]]
        num_tokens = sum(self._tokens.length(row) for row in own)
        return Work(microseconds=round(1e6 * (time.perf_counter() - started)), num_passes=len(self._checks), num_tokens=num_tokens)

    def _one_pass(self, step: StepBatch, index: int) -> torch.Tensor:
        self._state.gradient_P.zero_()
        torch.manual_seed(seed_of(self._seed, "dropout", step.index, index))
        batch = make_micro_batch(step.packs[index], self._tokens, self._state.gradient_P.device)
        self._reporter.begin_batch(batch.tokens_1T.numel())
        loss = loss_sum(self._model, batch) / step.num_targets
        loss.backward()
        return loss.detach()


def num_dummy_passes(num_packs: int, ranks: Ranks, group_size: int) -> int:
    """Passes beyond its own that a rank makes, result thrown away, so that its shard group's collectives match."""
    first = ranks.rank - ranks.rank % group_size
    counts = [len(own_leaves(rank, ranks.world_size, num_packs)) for rank in range(first, first + group_size)]
    return max(counts) - counts[ranks.rank - first]
