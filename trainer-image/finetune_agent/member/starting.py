"""From a start order to a run order: the same inputs as the others, the newest state in a slot, and all that workers are told."""

import logging
from collections.abc import Callable
from pathlib import Path

from finetune_agent.preparing.messages import ReadyInputs
from finetune_agent.settings import Settings
from finetune_agent.uploading.client import Uploads
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.orders import Start
from finetune_contract.reports import Warned
from finetune_contract.run_order import RunOrder
from finetune_contract.state import InputDigests, StateId, newest_state

_log = logging.getLogger(__name__)


def refuse_other_inputs(pinned: InputDigests | None, own: InputDigests, config: JobConfig) -> None:
    """Raises TrainingError if this member fetched other bytes than the members before it."""
    if pinned is None or pinned == own:
        return
    is_model = (pinned.model, pinned.model_revision) != (own.model, own.model_revision)
    field, uri = ("spec.model.uri", config.model.uri) if is_model else ("spec.dataset.uri", config.dataset.uri)
    before, now = (pinned.model, own.model) if is_model else (pinned.dataset, own.dataset)
    what = f"the {'model' if is_model else 'data'} at {uri} changed since this job was admitted (sha256 {before[:12]}, now {now[:12]})"
    raise TrainingError(FailureClass.USER_ERROR, f"{field}: {what}; put the old bytes back, or make a new job from the new ones")


async def fetch_newer_commit(
    start: Start, own: StateId | None, *, uploads: Uploads, inputs: InputDigests, warn: Callable[[Warned], None]
) -> StateId | None:
    """Only node rank 0, and only where the newest state is not in a slot of some member already. Returns what is resumed from."""
    hint = start.resume
    is_held = hint is not None and (start.resume_node_rank is not None or (own is not None and own.order >= hint.order))
    if start.node_rank != 0 or is_held or (hint is None and own is not None):
        return newest_state(hint, own)
    loaded = await uploads.load_newest(newer_than=own, inputs=inputs)
    if loaded is not None:
        _log.info("commit loaded", extra={"formation": loaded.formation, "step": loaded.step})
    elif hint is not None and own is None:
        message = f"no commit can be verified, though step {hint.step} was reported as committed; training starts again from step 0"
        warn(Warned(reason="CommitLost", message=message))
    return newest_state(loaded, own)


def output_folder(settings: Settings, formation: int) -> Path:
    """Where rank 0 of the formation leaves the adapter."""
    return settings.output_folder / f"f{formation:06d}"


def make_run_order(start: Start, *, config: JobConfig, settings: Settings, inputs: ReadyInputs) -> RunOrder:
    output = output_folder(settings, start.formation)
    output.mkdir(parents=True, exist_ok=True)
    return RunOrder(
        config=config,
        overrides=start.overrides,
        formation=start.formation,
        node_rank=start.node_rank,
        num_nodes=len(start.peers),
        processes_per_node=config.gang.processes_per_node,
        master_address=start.master_address,
        master_port=start.master_port,
        model_dir=inputs.model_dir,
        dataset_files=inputs.dataset_files,
        eval_files=inputs.eval_files,
        cache_dir=str(settings.cache_folder),
        output_dir=str(output),
        model_digest=inputs.digests.model,
        dataset_digest=inputs.digests.dataset,
        model_revision=inputs.digests.model_revision,
        slots_fd=None,
        beat_fd=None,
        events_fd=None,
        store_secret=start.store_secret,
    )
