"""What is said of the rows once, before the first step: which were cut, which columns nobody uses, what carries loss."""

from collections.abc import Iterator

from finetune_contract.run_order import WorkerWarning
from finetune_trainer.data import EVAL_FIELD, TRAIN_FIELD, Data
from finetune_trainer.notes import note_events
from finetune_trainer.parse_row import shown_name
from finetune_trainer.tokens import Tokens


def row_warnings(data: Data, *, limit: int) -> Iterator[WorkerWarning]:
    """Of the training rows, then of held-out rows that have a file of their own."""
    yield from _of(data.train, TRAIN_FIELD, "", limit)
    tally = data.train.tally
    yield from note_events(tally.notes, field=TRAIN_FIELD, num_tokens=tally.num_tokens, num_targets=tally.num_targets)
    if data.eval is not data.train:
        yield from _of(data.eval, EVAL_FIELD, "held-out ", limit)


def _of(tokens: Tokens, field: str, kind: str, limit: int) -> Iterator[WorkerWarning]:
    num_rows = tokens.tally.num_rows
    if tokens.num_cut or tokens.num_dropped:
        what = f"{tokens.num_cut} of {num_rows} {kind}rows were cut at spec.training.maxSequenceLength {limit}"
        message = f"{what}; {tokens.num_dropped} had no token left to train on and were dropped"
        yield WorkerWarning(reason="RowsCut", message=message)
    if tokens.tally.unused:
        columns = ", ".join(f"{shown_name(name)} ({count} rows)" for name, count in sorted(tokens.tally.unused.items()))
        yield WorkerWarning(reason="ColumnsUnused", message=f"{field}: of {num_rows} {kind}rows these columns are not used: {columns}")
