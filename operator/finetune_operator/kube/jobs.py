"""The port `Jobs` on a cluster: a cache of FineTuneJobs, and their status written by compare-and-swap.

The cache is fed from outside (`apply`); a sweep compares it with the API server, because a feed may miss deletions in a gap.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from finetune_operator.api.job import GROUP, PLURAL, VERSION, FineTuneJob
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.decision import Event
from finetune_operator.kube.client import METADATA_ONLY, ApiClient, ApiError, JsonObject
from finetune_operator.kube.events import EventRecorder
from finetune_operator.kube.merge_patch import diff
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.versions import is_newer
from finetune_operator.meters import Meters
from finetune_operator.reconcile.ports import Conflict, Gone, Key, Written

log = logging.getLogger(__name__)
_MAX_TOMBSTONES = 20_000


@dataclass(frozen=True, kw_only=True)
class _Cached:
    job: FineTuneJob
    stored_status: JsonObject


def collection_path(namespace: str | None) -> str:
    """Of FineTuneJobs in one namespace, or (None) in all."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}" if namespace else f"/apis/{GROUP}/{VERSION}/{PLURAL}"


def render_status(status: JobStatus) -> JsonObject:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def render_status_patch(job: FineTuneJob, stored_status: JsonObject, status: JobStatus) -> JsonObject | None:
    """The merge patch with which `job` gets `status`, valid for the version that was read only; None when nothing would change."""
    change = diff(stored_status, render_status(job.status), render_status(status))
    if not change:
        return None
    return {"metadata": {"uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version}, "status": change}


class ClusterJobs:
    """`on_change` puts a key into the queue; it is called for every change of the cache, our own writes included.

    `on_written(job, status)` is called once for each status that was stored, with the job as it was before.
    """

    def __init__(
        self,
        client: ApiClient,
        recorder: EventRecorder,
        *,
        namespaces: tuple[str, ...],
        on_change: Callable[[Key], None],
        on_written: Callable[[FineTuneJob, JobStatus], None],
        meters: Meters | None = None,
    ) -> None:
        self._writer = StatusWriter(client, meters or Meters(CollectorRegistry()))
        self._client, self._recorder, self._on_change, self._on_written = client, recorder, on_change, on_written
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._cached: dict[Key, _Cached] = {}
        self._key_of: dict[str, Key] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def get(self, key: Key) -> FineTuneJob | None:
        cached = self._cached.get(key)
        return cached.job if cached else None

    def keys(self) -> tuple[Key, ...]:
        return tuple(self._cached)

    def uids(self) -> frozenset[str]:
        return frozenset(self._key_of)

    def key_of(self, uid: str) -> Key | None:
        return self._key_of.get(uid)

    def apply(self, kind: str | None, item: JsonObject) -> None:
        """One event of the feed: `kind` is None (listed), ADDED, MODIFIED or DELETED. Cannot fail."""
        metadata = item["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if kind == "DELETED":
            self._forget(key, metadata["uid"])
        else:
            self._remember(key, item)

    def _remember(self, key: Key, item: JsonObject) -> bool:
        uid, version = item["metadata"]["uid"], item["metadata"]["resourceVersion"]
        before = self._cached.get(key)
        if uid in self._deleted:
            return False
        if before is not None and not is_newer(version, before.job.metadata.resource_version):
            return False
        try:
            job = FineTuneJob.model_validate(item)
        except ValidationError as error:
            log.error("job cannot be read: %s", error.errors(include_url=False)[0], extra={"namespace": key[0], "job": key[1]})
            return False
        if before is not None and before.job.metadata.uid != uid:
            self._forget(key, before.job.metadata.uid)
        self._cached[key] = _Cached(job=job, stored_status=item.get("status") or {})
        self._key_of[uid] = key
        self._on_change(key)
        return True

    def _forget(self, key: Key, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > _MAX_TOMBSTONES:
            self._deleted.popitem(last=False)
        cached = self._cached.get(key)
        if cached is not None and cached.job.metadata.uid == uid:
            del self._cached[key], self._key_of[uid]
            self._on_change(key)

    async def fill(self) -> None:
        """Read all jobs; afterwards the cache is complete. Raises ApiError (404: the CRD is missing) and Unreachable."""
        for namespace in self._namespaces:
            items, _ = await self._client.list_all(collection_path(namespace))
            for item in items:
                self._remember((item["metadata"]["namespace"], item["metadata"]["name"]), item)

    async def sweep(self) -> None:
        """Compare with a metadata-only list: ghosts are forgotten, missed jobs are read. Raises ApiError and Unreachable."""
        for namespace in self._namespaces:
            items, version = await self._client.list_all(collection_path(namespace), accept=METADATA_ONLY)
            listed = {(item["metadata"]["namespace"], item["metadata"]["name"]): item["metadata"] for item in items}
            for key, cached in list(self._cached.items()):
                mine = cached.job.metadata
                is_listed = key in listed and listed[key]["uid"] == mine.uid
                if namespace in {None, key[0]} and not is_listed and not is_newer(mine.resource_version, version):
                    log.warning("a deleted job had been missed", extra={"namespace": key[0], "job": key[1]})
                    self._forget(key, mine.uid)
            for key, metadata in listed.items():
                known = self._cached.get(key)
                if known is None or is_newer(metadata["resourceVersion"], known.job.metadata.resource_version):
                    await self._read(key)

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> Written | Conflict | Gone:
        """One merge PATCH that names uid and resourceVersion. Raises ApiError (other refusals) and Unreachable."""
        cached = self._cached.get(job.key)
        if cached is None or cached.job.metadata.uid != job.metadata.uid:
            return Gone()
        if cached.job.metadata.resource_version != job.metadata.resource_version:
            return Conflict()
        patch = render_status_patch(job, cached.stored_status, status)
        if patch is None:
            return Written(job=job)
        try:
            answer = await self._writer.write(f"{_path(job.key)}/status", patch)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            newest = await self._read(job.key)
            return Conflict() if newest is not None and newest["metadata"]["uid"] == job.metadata.uid else Gone()
        if answer is None:
            return Written(job=job)
        self._remember(job.key, answer)
        written = FineTuneJob.model_validate(answer)
        self._on_written(job, written.status)
        return Written(job=written)

    async def record(self, job: FineTuneJob, event: Event) -> None:
        self._recorder.record(job, event)

    async def _read(self, key: Key) -> JsonObject | None:
        """The newest object, put into the cache; None when it is gone."""
        try:
            item: dict[str, Any] = await self._client.request("GET", _path(key))
        except ApiError as error:
            if error.status != 404:
                raise
            known = self._cached.get(key)
            if known is not None:
                self._forget(key, known.job.metadata.uid)
            return None
        self._remember(key, item)
        return item


def _path(key: Key) -> str:
    return f"{collection_path(key[0])}/{key[1]}"
