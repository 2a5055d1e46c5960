"""Publishing an adapter: its files, then the manifest, fenced by formation. What has a manifest is complete.

The old manifest goes first when files are replaced, so that no reader ever takes a mixture for an adapter.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from finetune_agent.stores.object_store import ObjectMissing, ObjectStore, PutResult, StoreUnavailable
from finetune_agent.uploading.messages import Publish
from finetune_contract.adapter_files import ADAPTER_FILES
from finetune_contract.commits import OUTPUT_MANIFEST_NAME, OutputFile, OutputManifest
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.inside import open_inside
from finetune_contract.reports import Output


def read_output_manifest(store: ObjectStore) -> OutputManifest | None:
    """None if there is none, or something that is none of ours."""
    try:
        return OutputManifest.model_validate_json(store.get(OUTPUT_MANIFEST_NAME))
    except (ObjectMissing, ValidationError):
        return None


def render_output(config: JobConfig, manifest: OutputManifest, *, already_present: bool) -> Output:
    return Output(
        uri=config.output.uri,
        sha256=manifest.weights.sha256,
        num_bytes=manifest.num_bytes,
        step=manifest.step,
        already_present=already_present,
    )


def publish(store: ObjectStore, config: JobConfig, request: Publish) -> Output:
    """Raises TrainingError if somebody else's adapter may not be replaced."""
    present = read_output_manifest(store)
    if present is not None:
        _refuse_what_must_stay(present, config, request)
        store.delete(OUTPUT_MANIFEST_NAME)
    files = []
    for name, data in _written_by_the_trainer(Path(request.folder)):
        store.put(name, data)
        files.append(OutputFile(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    manifest = OutputManifest(
        job_uid=config.job.uid,
        formation=request.formation,
        step=request.step,
        base_model=config.model.uri,
        base_revision=request.inputs.model_revision if request.inputs is not None else config.model.revision,
        config_digest=config.trajectory_digest(),
        inputs=request.inputs,
        files=tuple(files),
        first_loss=request.first_loss,
        last_loss=request.last_loss,
        eval_loss=request.eval_loss,
        sample_digest=request.sample_digest,
    )
    if store.put(OUTPUT_MANIFEST_NAME, manifest.model_dump_json(indent=1).encode(), if_absent=True) is PutResult.ALREADY_THERE:
        raise StoreUnavailable(f"another member writes to {config.output.uri} at the same moment")
    return render_output(config, manifest, already_present=False)


def _written_by_the_trainer(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Regular files that an adapter is made of, by name. Whatever else lies there stays there."""
    for name in sorted(ADAPTER_FILES):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            continue
        with open_inside(folder, path) as file:
            yield name, file.read()


def _refuse_what_must_stay(present: OutputManifest, config: JobConfig, request: Publish) -> None:
    if present.job_uid == config.job.uid:
        if present.formation > request.formation:
            message = f"formation {present.formation} has already published; formation {request.formation} is outdated"
            raise TrainingError(FailureClass.INFRASTRUCTURE, message)
    elif config.output.if_exists != "Overwrite":
        what = f"{config.output.uri} got an adapter of another job (uid {present.job_uid}) while this one was training"
        raise TrainingError(
            FailureClass.USER_ERROR, f"spec.output.uri: {what}; set output.ifExists: Overwrite or another uri and run again"
        )
