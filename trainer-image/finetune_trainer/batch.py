"""Which rows make up a step, and how they are packed: a pure function of (seed, step), whatever the world size.

    step -> epoch, position -> rows of the seeded permutation -> packs (first fit, in order) -> one micro-batch a pack
Legend of tensor names: T tokens of one pack, K tokens of it that carry loss.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune_trainer.seeds import permutation
from finetune_trainer.tokens import Tokens

Pack = tuple[int, ...]  # rows of the tokens that share one micro-batch


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """Rows of one optimizer step, in order; `epoch` counts from 0."""

    epoch: int
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One pack as tensors. `kept_K` are positions whose next token carries loss, `targets_K` those tokens."""

    tokens_1T: torch.Tensor
    positions_1T: torch.Tensor
    segment_lengths: tuple[int, ...]
    kept_K: torch.Tensor
    targets_K: torch.Tensor


class RowOrder:
    """The steps of a job over its training rows. A step never crosses an epoch, so the last one of an epoch may be smaller."""

    def __init__(self, rows: npt.NDArray[np.int64], *, seed: int, batch_size: int, epochs: int, max_steps: int | None) -> None:
        self._rows, self._seed, self._batch_size = rows, seed, batch_size
        self.steps_per_epoch = -(-len(rows) // batch_size)
        by_epochs = epochs * self.steps_per_epoch
        self.total_steps = by_epochs if max_steps is None else min(by_epochs, max_steps)
        self._epoch_in_memory = -1
        self._order: npt.NDArray[np.int64] = rows

    def rows_of(self, step: int) -> StepRows:
        """Rows of the step with this index (from 0)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch_in_memory:
            self._order = self._rows[permutation(len(self._rows), self._seed, "epoch", epoch)]
            self._epoch_in_memory = epoch
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return StepRows(epoch=epoch, rows=tuple(int(row) for row in chosen))


def pack(rows: Sequence[int], tokens: Tokens, *, capacity: int | None) -> tuple[Pack, ...]:
    """First fit in order; a row longer than the capacity has a pack of its own. None: every row has."""
    packs: list[list[int]] = []
    room: list[int] = []
    for row in rows:
        length = tokens.length(row)
        place = next((index for index, free in enumerate(room) if capacity is not None and length <= free), None)
        if place is None:
            packs.append([row])
            room.append((capacity or 0) - length)
        else:
            packs[place].append(row)
            room[place] -= length
    return tuple(tuple(members) for members in packs)


def count_targets(rows: Sequence[int], tokens: Tokens) -> int:
    """Tokens that carry loss; the first token of a row never does."""
    return sum(int(tokens.is_target[tokens.starts[row] + 1 : tokens.starts[row + 1]].sum()) for row in rows)


def make_micro_batch(members: Pack, tokens: Tokens, device: torch.device) -> MicroBatch:
    """Tensors of one pack; segments never see each other (attention.py)."""
    lengths = tuple(tokens.length(row) for row in members)
    ids, kept, offset = [], [], 0
    for row, length in zip(members, lengths, strict=True):
        start = int(tokens.starts[row])
        ids.append(tokens.ids[start : start + length])
        kept.append(np.flatnonzero(tokens.is_target[start + 1 : start + length]) + offset)
        offset += length
    ids_T, kept_K = torch.from_numpy(np.concatenate(ids)).long(), torch.from_numpy(np.concatenate(kept))
    return MicroBatch(
        tokens_1T=ids_T[None].to(device),
        positions_1T=torch.cat([torch.arange(length) for length in lengths])[None].to(device),
        segment_lengths=lengths,
        kept_K=kept_K.to(device),
        targets_K=ids_T[kept_K + 1].to(device),
    )


def chain_digest(previous: str, step: int, row_numbers: Sequence[int]) -> str:
    """Digest over all steps so far: two runs with equal digests saw the same rows in the same steps."""
    numbers = ",".join(str(number) for number in row_numbers)
    return hashlib.sha256(f"{previous}/{step}/{numbers}".encode()).hexdigest()
