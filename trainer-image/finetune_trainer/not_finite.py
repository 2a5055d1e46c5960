"""Words for a step that is not finite: which rank computed it, and from which rows."""

import math
from collections.abc import Sequence

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import verb
from finetune_contract.run_order import WorkerWarning
from finetune_trainer.data import Data
from finetune_trainer.exchange import gather_numbers
from finetune_trainer.passes import StepBatch
from finetune_trainer.report import Reporter

_MAX_NAMED_ROWS = 20


def not_finite(step: StepBatch, own: Sequence[int], data: Data, *, loss: float, norm: float) -> TrainingError:
    """Collective: all ranks have seen the same sums. `own` are this rank's micro-batches whose own gradient or loss is not finite."""
    marked = set(own)
    told = gather_numbers([int(index in marked) for index in range(len(step.packs))])
    found = [[index for index, mark in enumerate(marks) if mark] for marks in told]
    ranks = [rank for rank, packs in enumerate(found) if packs]
    # Finite parts can have a sum that is too large: then nobody in particular computed it, and all rows may have a part in it.
    rows = [row for packs in found for index in packs for row in step.packs[index]] or list(step.rows.rows)
    shown = ", ".join(data.train.name_of(row) for row in rows[:_MAX_NAMED_ROWS]) + (", ..." if len(rows) > _MAX_NAMED_ROWS else "")
    whose = (
        f"Computed by {verb(len(ranks), 'rank', 'ranks')} {', '.join(map(str, ranks))}" if ranks else "Finite on each rank, but not in sum"
    )
    message = (
        f"step {step.index + 1}: loss {loss}, gradient norm {norm}; the step was not applied. {whose}. Rows: {shown}. "
        "Lower spec.training.learningRate, or check these rows"
    )
    return TrainingError(FailureClass.NOT_FINITE, message, rank=ranks[0] if ranks else None)


def finite_or_told(loss: float, step: int, reporter: Reporter) -> float | None:
    """A loss on the held-out rows that is not finite ends nothing: it is told in words, and no number is shown."""
    if math.isfinite(loss):
        return loss
    what = f"step {step}: the loss on the held-out rows is {loss}, so none is shown; training goes on"
    advice = "look for values that are not finite in the base model, and for held-out rows that differ from the training rows"
    reporter.warn(WorkerWarning(reason="EvaluationNotFinite", message=f"{what}; {advice}"))
    return None
