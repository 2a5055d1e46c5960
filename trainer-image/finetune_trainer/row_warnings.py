"""What is said of the rows once, before the first step: which were cut, which columns nobody uses, what carries loss."""

from collections.abc import Iterator

from finetune_contract.plurals import counted, verb
from finetune_contract.run_order import WorkerWarning
from finetune_trainer.json_text import shown_name
from finetune_trainer.notes import note_events
from finetune_trainer.tokens import Tally

TRAIN_FIELD, EVAL_FIELD = "spec.dataset.uri", "spec.dataset.evalUri"


def row_warnings(tally: Tally, field: str, *, limit: int) -> Iterator[WorkerWarning]:
    """Of the rows of one place, which `field` names."""
    rows = counted(tally.num_rows, "held-out row" if field == EVAL_FIELD else "row")
    if tally.num_cut or tally.num_dropped:
        what = f"{tally.num_cut} of {rows} {verb(tally.num_cut, 'was', 'were')} cut at spec.training.maxSequenceLength {limit}"
        message = f"{what}; {tally.num_dropped} had no token left to train on and {verb(tally.num_dropped, 'was', 'were')} dropped"
        yield WorkerWarning(reason="RowsCut", message=message)
    if tally.unused:
        columns = ", ".join(f"{shown_name(name)} ({counted(count, 'row')})" for name, count in sorted(tally.unused.items()))
        yield WorkerWarning(reason="ColumnsUnused", message=f"{field}: of {rows} these columns are not used: {columns}")
    if field == TRAIN_FIELD:
        yield from note_events(tally.notes, field=field, num_tokens=tally.num_tokens, num_targets=tally.num_targets)
