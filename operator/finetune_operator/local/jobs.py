"""The port `Jobs` in memory: compare-and-swap as the API server does it, with every version on disk.

The next run in the same folder goes on from there; people read the status beside it. Events go to a listener.
"""

import os
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import ValidationError

from finetune_contract.values import changed
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.decision import Event
from finetune_operator.reconcile.ports import Conflict, Gone, Key, Written


class LocalJobs:
    """`job_file` and `status_file` hold what was written last. `on_event` hears each event once."""

    def __init__(self, *, job_file: Path, status_file: Path, on_event: Callable[[Event], None]) -> None:
        self._job_file, self._status_file, self._on_event = job_file, status_file, on_event
        self._jobs: dict[Key, FineTuneJob] = {}
        self._version = 0
        self.trouble: OSError | None = None  # why the files are behind

    def submit(self, job: FineTuneJob) -> FineTuneJob:
        """Store a new or changed job under a new resource version."""
        return self._store(job)

    def suspend(self, key: Key) -> None:
        """As a user who sets spec.suspend: save, then free the members."""
        self.edit(key, changed(self._jobs[key].spec, suspend=True))

    def edit(self, key: Key, spec: FineTuneJobSpec) -> None:
        """As a user who applies another spec."""
        job = self._jobs[key]
        metadata = changed(job.metadata, generation=job.metadata.generation + 1)
        self._store(changed(job, metadata=metadata, spec=spec))

    def get(self, key: Key) -> FineTuneJob | None:
        return self._jobs.get(key)

    def keys(self) -> tuple[Key, ...]:
        return tuple(self._jobs)

    async def tell_unreadable(self, key: Key) -> None:
        """A file that cannot be read never becomes a job here."""
        return

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> Written | Conflict | Gone:
        current = self._jobs.get(job.key)
        if current is None or current.metadata.uid != job.metadata.uid:
            return Gone()
        if current.metadata.resource_version != job.metadata.resource_version:
            return Conflict()
        return Written(job=self._store(changed(current, status=status)))

    async def record(self, job: FineTuneJob, event: Event) -> None:
        self._on_event(event)

    def _store(self, job: FineTuneJob) -> FineTuneJob:
        self._version += 1
        metadata = changed(job.metadata, resource_version=str(self._version))
        stored = changed(job, metadata=metadata)
        self._jobs[job.key] = stored
        try:
            _replace(self._job_file, stored.model_dump_json(by_alias=True))
            _replace(self._status_file, render_status(stored.status))
        except OSError as error:
            self.trouble = error
        return stored


def read_stored(job_file: Path) -> FineTuneJob | None:
    """The job of the run before in this folder; None if there was none or it cannot be read."""
    try:
        return FineTuneJob.model_validate_json(job_file.read_text())
    except (FileNotFoundError, ValidationError):
        return None


def render_status(status: JobStatus) -> str:
    """As `kubectl get -o yaml` would show it."""
    return yaml.safe_dump(status.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)


def _replace(path: Path, text: str) -> None:
    """Readers see the old text or the whole new one."""
    half_written = path.with_suffix(".tmp")
    half_written.write_text(text)
    os.replace(half_written, path)
