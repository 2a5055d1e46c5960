"""Where training goes on: the greatest (formation, step) that any member holds, the same on every rank afterwards.

Only slots are read: the agent has put a commit into a slot before, and a slot verifies its own CRC.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from pydantic import ValidationError

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import counted, verb
from finetune_contract.run_order import WorkerWarning
from finetune_contract.state import RunRecord, StateId, newest_state
from finetune_trainer.exchange import bad_peer, broadcast_text, gather_numbers
from finetune_trainer.optimise import FlatState
from finetune_trainer.ranks import Ranks
from finetune_trainer.report import Reporter
from finetune_trainer.snapshots import Snapshots
from finetune_trainer.stragglers import Work


def restore(snapshots: Snapshots, state: FlatState) -> RunRecord | None:
    """Collective. Put the newest state of all members into `state`; its record, or None when there is none."""
    own = snapshots.newest()
    known = _states_of_all(None if own is None else own.state_id)
    newest = newest_state(*known)
    if newest is None:
        return None
    holder = known.index(newest)
    is_holder = dist.get_rank() == holder
    record = _record_of(holder, broadcast_text(own.record.model_dump_json() if is_holder and own is not None else None, holder))
    if record.num_parameters != state.num_parameters:
        sizes = f"{counted(record.num_parameters, 'adapter weight')}, but this job has {state.num_parameters}"
        raise TrainingError(FailureClass.INTERNAL, f"the resume state of step {record.step} has {sizes}")
    if is_holder and own is not None:
        state.state_3P.copy_(torch.from_numpy(np.frombuffer(bytearray(own.state), dtype=np.float32)))
    dist.broadcast(state.state_3P, src=holder)
    return record


def _states_of_all(own: StateId | None) -> list[StateId | None]:
    """By rank; a rank without a state says -1, -1."""
    told = gather_numbers((-1, -1) if own is None else (own.formation, own.step))
    return [None if numbers == [-1, -1] else _state_of(rank, *numbers) for rank, numbers in enumerate(told)]


def _state_of(rank: int, formation: int, step: int) -> StateId:
    try:
        return StateId(formation=formation, step=step)
    except ValidationError:
        raise bad_peer(rank, "an invalid name of a resume state") from None


def _record_of(rank: int, text: str) -> RunRecord:
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError:
        raise bad_peer(rank, "an unreadable run record") from None


def check_same_on_all_ranks(state: FlatState, step: int, ranks: Ranks, own: Work) -> tuple[Work, ...]:
    """Collective. Every rank's work of this step, which travels with the fingerprints.

    Raises TrainingError naming the ranks whose state differs from most: such a step must not become a snapshot.
    """
    if ranks.world_size == 1:
        return (own,)
    sent = torch.cat([state.fingerprint(), torch.tensor([own.microseconds, own.num_passes, own.num_tokens])])
    gathered = torch.empty(ranks.world_size * sent.numel(), dtype=torch.int64)
    dist.all_gather_into_tensor(gathered, sent)
    told = gathered.view(ranks.world_size, -1).tolist()
    prints = [tuple(row[:-3]) for row in told]
    if len(set(prints)) == 1:
        return tuple(Work(microseconds=row[-3], num_passes=row[-2], num_tokens=row[-1]) for row in told)
    most = max(prints, key=prints.count)
    odd = [rank for rank, fingerprint in enumerate(prints) if fingerprint != most]
    nodes = sorted({rank // ranks.local_world_size for rank in odd})
    message = f"step {step}: {_ranks(odd)} (node {_ranks(nodes)}) computed another state than the other ranks; the step is not kept"
    raise TrainingError(FailureClass.INFRASTRUCTURE, message)


def _ranks(numbers: Sequence[int]) -> str:
    return f"{verb(len(numbers), 'rank', 'ranks')} {', '.join(map(str, numbers))}"


def warn_of_other_numerics(before: RunRecord, now: RunRecord, reporter: Reporter) -> None:
    """Another numerics key may give other bytes from here on: declared, never silent."""
    if before.numerics == now.numerics:
        return
    then, here = before.numerics.model_dump(), now.numerics.model_dump()
    changes = ", ".join(f"{name} {then[name]} -> {here[name]}" for name in then if then[name] != here[name])
    message = f"numerics changed at step {before.step}: {changes}; the adapter's bytes may differ from an undisturbed run's"
    reporter.warn(WorkerWarning(reason="NumericsChanged", message=message))
