"""All rows of one file to tokens, cut at the limit. How one row becomes tokens: encode.py."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.encode import Encoded, Encoder
from finetune_trainer.notes import Note, collect
from finetune_trainer.rows import Rows

TrainOn = Literal["auto", "completions", "all"]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """All kept rows, one after another: row i is `ids[starts[i]:starts[i + 1]]`; `is_target` marks tokens that carry loss.

    `numbers` are line numbers in the file. `num_cut` rows were longer than the limit, `num_dropped` had no target left after that.
    """

    ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    num_cut: int
    num_dropped: int
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def length(self, row: int) -> int:
        return int(self.starts[row + 1] - self.starts[row])


def load_tokenizer(folder: Path, *, model_uri: str) -> PreTrainedTokenizerBase:
    """Raises TrainingError if the folder holds no fast tokenizer."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(FailureClass.USER_ERROR, f"spec.model.uri: {model_uri} has no tokenizer that can be read: {error}") from None
    if not tokenizer.is_fast:
        message = f"spec.model.uri: {model_uri} has a slow tokenizer; wanted one with tokenizer.json"
        raise TrainingError(FailureClass.USER_ERROR, message)
    return tokenizer


def tokenise(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    train_on: TrainOn,
    template: str | None,
    day: date | None = None,
) -> Tokens:
    """Tokenise, cut at `limit` tokens, drop what has no target left. Raises TrainingError when no row is left."""
    if rows.form == "messages" and template is None and not tokenizer.chat_template:
        message = (
            f"{rows.field}: the rows are chat messages, but the model's tokenizer has no chat template; "
            "set spec.training.chatTemplate or take an instruct model"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    if rows.form == "text" and train_on == "completions":
        message = (
            f"spec.training.trainOn: completions, but the rows of {rows.field} are text; wanted chat messages or prompt and completion"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    trains_on_all = train_on == "all" or (train_on == "auto" and rows.form == "text")
    encoder = Encoder(rows, tokenizer, trains_on_all=trains_on_all, template=template, day=day)
    encoded = [encoder.encode(row) for row in rows.rows]
    lengths = [len(one.ids) for one in encoded]
    if min(lengths) > limit:
        message = (
            f"{rows.field}: all {len(lengths)} rows are longer than spec.training.maxSequenceLength {limit}: "
            f"the shortest has {min(lengths)} tokens, the longest {max(lengths)}; raise maxSequenceLength or shorten the rows"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    return _pack_up(rows, encoded, limit)


def _pack_up(rows: Rows, encoded: list[Encoded], limit: int) -> Tokens:
    cut = [(one.ids[:limit], one.is_target[:limit]) for one in encoded]
    # The first token of a row is predicted from nothing, so a mark on it trains nothing.
    kept = [index for index, (_, marks) in enumerate(cut) if any(marks[1:])]
    if not kept:
        message = f"{rows.field}: none of the {len(cut)} rows has a token to train on; see spec.training.trainOn"
        raise TrainingError(FailureClass.USER_ERROR, message)
    return Tokens(
        ids=np.concatenate([np.asarray(cut[index][0], dtype=np.int32) for index in kept]),
        is_target=np.concatenate([np.asarray(cut[index][1], dtype=np.bool_) for index in kept]),
        starts=np.concatenate([[0], np.cumsum([len(cut[index][0]) for index in kept])]).astype(np.int64),
        numbers=np.asarray([rows.rows[index].number for index in kept], dtype=np.int64),
        num_cut=sum(len(one.ids) > limit for one in encoded),
        num_dropped=len(cut) - len(kept),
        notes=collect((row.number, one.notes) for row, one in zip(rows.rows, encoded, strict=True)),
    )
