"""The recipe of one rank, from top to bottom: process group, model, data, state, steps, evaluation, export.

Order at the end of a step k: state of k, snapshot of k, progress, then the evaluation of k; on resume a due evaluation is done first.
Snapshot and progress are a writer thread's, beside the passes of step k + 1; its update, and whatever else comes after k, waits for them.
"""

import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from finetune_contract.reports import Progress
from finetune_contract.run_order import RunOrder, WorkerDone, WorkerExported, WorkerProgress, WorkerWarning
from finetune_contract.state import RunRecord, StateId
from finetune_contract.values import changed
from finetune_trainer.batch import RowOrder, chain_digest
from finetune_trainer.data import load_data
from finetune_trainer.evaluate import Evaluation
from finetune_trainer.export import export_adapter, state_digest
from finetune_trainer.fits import check_fit
from finetune_trainer.model import build_model
from finetune_trainer.not_finite import finite_or_told, not_finite
from finetune_trainer.optimise import FlatState, adamw_of, clip, learning_rate, update
from finetune_trainer.passes import GradientPass, StepBatch, plan_step
from finetune_trainer.ranks import Ranks, choose_device, join_process_group, meet
from finetune_trainer.record import first_record, numerics_of, pack_capacity
from finetune_trainer.reduce import own_leaves
from finetune_trainer.report import Reporter
from finetune_trainer.resume import check_same_on_all_ranks, restore, warn_of_other_numerics
from finetune_trainer.snapshots import Snapshots
from finetune_trainer.stragglers import StepTimes


def train(order: RunOrder, ranks: Ranks, reporter: Reporter) -> None:  # noqa: PLR0915 - the recipe's loop
    """Train to the end of the job. Raises TrainingError; any other exception is a defect or the loss of a peer."""
    config = order.config
    training = config.training

    reporter.enter("loading")
    device = choose_device(ranks)
    join_process_group(device, order.store_secret)
    checkpointing = training.gradient_checkpointing or bool(order.overrides.gradient_checkpointing)
    model = build_model(config, Path(order.model_dir), ranks=ranks, device=device, checkpointing=checkpointing, beat=reporter.beat_within)
    data = load_data(order, ranks, reporter)
    check_fit(data, model, order, reporter)
    row_order = RowOrder(
        data.train_rows,
        seed=training.seed,
        batch_size=training.global_batch_size,
        epochs=training.epochs,
        max_steps=training.max_steps,
    )
    capacity = pack_capacity(order)
    evaluation = Evaluation(data, capacity=capacity)

    state = FlatState(model.adapters, device)
    snapshots = Snapshots(order, ranks, state)
    record = first_record(order, num_parameters=state.num_parameters, total_steps=row_order.total_steps, device=device)
    restored = restore(snapshots, state)
    if restored is not None:
        warn_of_other_numerics(restored, record, reporter)
        record = changed(restored, numerics=numerics_of(order, device))
        snapshots.begin(record)
    first_step = record.step

    def evaluate(record: RunRecord) -> RunRecord:
        is_last = record.step == row_order.total_steps
        is_due = is_last or (training.eval_every_steps is not None and record.step > 0 and record.step % training.eval_every_steps == 0)
        if evaluation.is_empty or not is_due or record.last_evaluated_step == record.step:
            return record
        snapshots.wait()
        reporter.enter("evaluating")
        loss = finite_or_told(evaluation.mean_loss(model, ranks, device, reporter), record.step, reporter)
        return changed(record, eval_loss=loss, last_evaluated_step=record.step)

    record = evaluate(record)
    reporter.enter("first_step")
    passes = GradientPass(model, state, data.train, ranks, seed=training.seed, reporter=reporter)
    times = StepTimes()
    for index in range(first_step, row_order.total_steps):
        started = time.perf_counter()
        step = plan_step(index, row_order.rows_of(index), data.train, capacity=capacity)
        if index == first_step:
            _warn_of_idle_ranks(step, ranks, reporter)

        gradient_P, loss = passes.gradient(step)
        snapshots.wait()
        norm = clip(gradient_P, training.max_grad_norm)
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise not_finite(step, passes.not_finite(), data, loss=loss, norm=norm)
        rate = learning_rate(training, index, row_order.total_steps)
        update(state, gradient_P, adamw_of(training), step=index + 1, rate=rate)
        reporter.owe_snapshot()
        with reporter.waiting_for_peers():
            work = check_same_on_all_ranks(state, index + 1, ranks, passes.own_work)

        numbers = [int(data.train.numbers[row]) for row in step.rows.rows]
        record = changed(
            record,
            step=index + 1,
            rows_consumed=record.rows_consumed + len(numbers),
            tokens_total=record.tokens_total + step.num_tokens,
            sample_digest=chain_digest(record.sample_digest, index + 1, numbers),
            last_loss=loss,
            first_loss=loss if record.first_loss is None else record.first_loss,
        )
        if index == first_step:
            reporter.enter("training", resumed_step=first_step)
        seconds = time.perf_counter() - started
        times.add(work, seconds)
        progress = _progress(order, record, row_order, norm=norm, rate=rate, num_tokens=step.num_tokens, seconds=seconds)
        progress = changed(progress, slowest=times.slowest())
        snapshots.begin(record, then=partial(reporter.kept, progress))
        evaluated = evaluate(record)
        if evaluated is not record:
            reporter.enter("training")
            if ranks.is_leader:
                reporter.tell(WorkerProgress(progress=changed(progress, eval_loss=evaluated.eval_loss)))
        record = evaluated

    snapshots.wait()
    reporter.enter("exporting", num_bytes=state.weights_P.nbytes)
    if ranks.is_leader:
        folder, model_dir = Path(order.output_dir), Path(order.model_dir)
        kinds, revision = model.adapted_kinds, order.model_revision
        export_adapter(folder, config=config, adapters=model.adapters, kinds=kinds, model_dir=model_dir, revision=revision)
        reporter.tell(_exported(order, record, state.weights_P))
    meet(reporter.beat)
    reporter.tell(WorkerDone(rank=ranks.rank))
    dist.destroy_process_group()


def _exported(order: RunOrder, record: RunRecord, weights_P: torch.Tensor) -> WorkerExported:
    return WorkerExported(
        state=StateId(formation=order.formation, step=record.step),
        state_sha256=state_digest(weights_P),
        first_loss=record.first_loss,
        last_loss=record.last_loss,
        eval_loss=record.eval_loss,
        sample_digest=record.sample_digest,
    )


def _progress(
    order: RunOrder, record: RunRecord, row_order: RowOrder, *, norm: float, rate: float, num_tokens: int, seconds: float
) -> Progress:
    assert record.last_loss is not None
    return Progress(
        formation=order.formation,
        step=record.step,
        total_steps=row_order.total_steps,
        epoch=record.step / row_order.steps_per_epoch,
        loss=record.last_loss,
        eval_loss=record.eval_loss,
        learning_rate=rate,
        grad_norm=norm,
        tokens_total=record.tokens_total,
        tokens_per_second=num_tokens / seconds,
        step_seconds=seconds,
        first_loss=record.first_loss,
    )


def _warn_of_idle_ranks(step: StepBatch, ranks: Ranks, reporter: Reporter) -> None:
    num_packs = len(step.packs)
    if num_packs >= ranks.world_size:
        return
    idle = [rank for rank in range(ranks.world_size) if not own_leaves(rank, ranks.world_size, num_packs)]
    message = (
        f"each step has {num_packs} micro-batch{'' if num_packs == 1 else 'es'} for {ranks.world_size} ranks, "
        f"so rank{'' if len(idle) == 1 else 's'} {', '.join(map(str, idle))} {'stays' if len(idle) == 1 else 'stay'} idle; "
        "raise spec.training.globalBatchSize or use fewer nodes"
    )
    reporter.warn(WorkerWarning(reason="IdleRanks", message=message))
