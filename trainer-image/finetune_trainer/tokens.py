"""The tokens of a data set: all kept rows, one after another, in flat arrays that may lie in memory or in mapped files."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune_contract.values import Value
from finetune_trainer.notes import Note


class Tally(Value):
    """What was counted over the rows up to number `last_number`, kept and dropped ones.

    `num_cut` rows were longer than the limit, `num_dropped` had no target left after that. `bases` are the numbers of the last rows
    before each file. `unused` says how many rows have a column that no training uses.
    """

    last_number: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    num_targets: int = 0
    num_cut: int = 0
    num_dropped: int = 0
    shortest: int | None = None
    longest: int = 0
    notes: tuple[Note, ...] = ()
    unused: dict[str, int] = {}
    bases: tuple[int, ...] = (0,)

    @property
    def num_kept(self) -> int:
        return self.num_rows - self.num_dropped


@dataclass(frozen=True, kw_only=True)
class Part:
    """Kept rows that follow each other: `lengths` and `numbers` by row, the others by token."""

    ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Row i is `ids[starts[i]:starts[i + 1]]`; `is_target` marks tokens that carry loss; `numbers` are those of the rows in the files."""

    ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    tally: Tally
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def length(self, row: int) -> int:
        return int(self.starts[row + 1] - self.starts[row])

    @property
    def num_cut(self) -> int:
        return self.tally.num_cut

    @property
    def num_dropped(self) -> int:
        return self.tally.num_dropped

    def name_of(self, row: int) -> str:
        """The number of a row in its file, after the file's name where there are several."""
        number = int(self.numbers[row])
        if len(self.files) == 1:
            return str(number)
        index = max(place for place, base in enumerate(self.tally.bases) if base < number)
        return f"{self.files[index]} row {number - self.tally.bases[index]}"


def join(parts: Iterator[Part], tally: Tally, files: tuple[str, ...]) -> Tokens:
    """All parts as one, in memory."""
    found = list(parts)
    return Tokens(
        ids=np.concatenate([part.ids for part in found]),
        is_target=np.concatenate([part.is_target for part in found]),
        starts=np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in found]))]).astype(np.int64),
        numbers=np.concatenate([part.numbers for part in found]),
        tally=tally,
        files=files,
    )
