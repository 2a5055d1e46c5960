"""From a document as written to the job of this run: what the command line changes, what the API server would add. Pure.

no job in the work folder         -> a new job
an unended job of the same recipe -> that job goes on, with its uid, its commits and its numbers
anything else                     -> refused
"""

import copy
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_contract.values import changed
from finetune_operator.api.job import FineTuneJob


def change_document(document: Any, *, num_members: int | None, store: Path | None) -> Any:
    """A copy in which `store` takes checkpoints and adapter and the gang has `num_members`. What is no object is left as it is."""
    document_for_here = copy.deepcopy(document)
    spec = _section(document_for_here, "spec")
    if spec is None:
        return document_for_here
    if store is not None:
        metadata = _section(document_for_here, "metadata")
        name = None if metadata is None else metadata.get("name")
        for field, kind in (("checkpoint", "checkpoints"), ("output", "adapters")):
            section = _section(spec, field)
            if section is not None:
                section["uri"] = f"file://{store.absolute()}/{kind}/{name}"
    resources = _section(spec, "resources")
    if num_members is not None and resources is not None:
        resources["nodes"] = {"min": num_members, "max": num_members}
    return document_for_here


def _section(parent: Any, name: str) -> dict[str, Any] | None:
    """The object under `name`, made if absent; None where something else stands."""
    section = parent.setdefault(name, {}) if isinstance(parent, dict) else None
    return section if isinstance(section, dict) else None


def identify(job: FineTuneJob, *, uid: str, now: datetime) -> FineTuneJob:
    """With what the API server gives to a new object."""
    return changed(job, metadata=changed(job.metadata, uid=uid, generation=1, creation_timestamp=now))


class OtherRun(Exception):
    """The work folder belongs to a run that this job cannot continue; the message says why."""


def continue_job(job: FineTuneJob, before: FineTuneJob | None) -> FineTuneJob:
    """`job` itself, or with identity and status of the run before. Raises OtherRun."""
    if before is None:
        return job
    if before.status.is_ended:
        raise OtherRun(f"holds a finished run of {before.metadata.name}")
    if (before.key, _recipe(before)) != (job.key, _recipe(job)):
        raise OtherRun(f"holds an unfinished run of {before.metadata.name} with another model, dataset, adapter, training or place")
    metadata = changed(before.metadata, generation=before.metadata.generation + 1)
    return changed(job, metadata=metadata, status=before.status)


def _recipe(job: FineTuneJob) -> tuple[object, ...]:
    spec = job.spec
    return (spec.model, spec.dataset, spec.adapter, spec.training, spec.checkpoint.uri, spec.output.uri)
