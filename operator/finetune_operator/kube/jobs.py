"""The port `Jobs` on a cluster: a cache of FineTuneJobs, and their status written by compare-and-swap.

The cache is fed from outside (`apply`); a sweep compares it with the API server, because a feed may miss deletions in a gap.
A job that cannot be read stays known by its name and uid: nothing is decided about it, and nothing of it is forgotten.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from finetune_operator.api.job import GROUP, PLURAL, VERSION, FineTuneJob
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.decision import Event
from finetune_operator.kube.client import MERGE_PATCH, METADATA_ONLY, ApiClient, ApiError, JsonObject, Unreachable
from finetune_operator.kube.events import EventRecorder
from finetune_operator.kube.informer import Strangers
from finetune_operator.kube.job_view import (
    JobIdentity,
    UnreadableJob,
    parse_identity,
    parse_job,
    render_status_patch,
    render_unreadable_patch,
)
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.shape import section
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.versions import is_newer
from finetune_operator.reconcile.ports import Conflict, Gone, Key, Written
from finetune_operator.times import SEEN_BY_THE_FEED_SECONDS, TELL_UNREADABLE_AGAIN_SECONDS

log = logging.getLogger(__name__)
_MAX_TOMBSTONES = 20_000


@dataclass(frozen=True, kw_only=True)
class _Cached:
    job: FineTuneJob | UnreadableJob
    identity: JobIdentity
    stored_status: JsonObject


def collection_path(namespace: str | None) -> str:
    """Of FineTuneJobs in one namespace, or (None) in all."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}" if namespace else f"/apis/{GROUP}/{VERSION}/{PLURAL}"


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
        strangers: Strangers,
        meters: Meters | None = None,
    ) -> None:
        self._writer = StatusWriter(client, meters or Meters(CollectorRegistry()))
        self._client, self._recorder, self._on_change, self._on_written = client, recorder, on_change, on_written
        self._strangers = strangers
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._cached: dict[Key, _Cached] = {}
        self._key_of: dict[str, Key] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._told_at: dict[str, float] = {}  # by uid: when the status of an unreadable job was written last
        self._logged: dict[str, tuple[float, str]] = {}  # by uid: when the log was told what of the job cannot be read, and what

    def get(self, key: Key) -> FineTuneJob | None:
        cached = self._cached.get(key)
        return cached.job if cached is not None and isinstance(cached.job, FineTuneJob) else None

    def keys(self) -> tuple[Key, ...]:
        return tuple(self._cached)

    def uids(self) -> frozenset[str]:
        return frozenset(self._key_of)

    def key_of(self, uid: str) -> Key | None:
        return self._key_of.get(uid)

    @property
    def num_unreadable(self) -> int:
        return sum(isinstance(cached.job, UnreadableJob) for cached in self._cached.values())

    def apply(self, kind: str | None, item: object) -> None:
        """One event of the feed: `kind` is None (listed), ADDED, MODIFIED or DELETED. Cannot fail."""
        identity = parse_identity(item)
        if identity is None:
            self._strangers.record_unreadable(PLURAL)
        elif kind == "DELETED":
            self._forget(identity.key, identity.uid)
        else:
            self._remember(item)

    def _remember(self, item: object) -> None:
        read = self._parse(item)
        if read is not None:
            self._keep(read)

    def _parse(self, item: object) -> _Cached | None:
        job = parse_job(item)
        if job is None:
            self._strangers.record_unreadable(PLURAL)
            return None
        identity = job.identity if isinstance(job, UnreadableJob) else parse_identity(item)
        assert identity is not None, "a job that was read has a name"
        return _Cached(job=job, identity=identity, stored_status=section(item, "status"))

    def _keep(self, read: _Cached) -> None:
        job, identity = read.job, read.identity
        key, before = identity.key, self._cached.get(identity.key)
        if identity.uid in self._deleted or (before is not None and not is_newer(identity.version, before.identity.version)):
            return
        if before is not None and before.identity.uid != identity.uid:
            self._forget(key, before.identity.uid)
        if isinstance(job, UnreadableJob):
            self._strangers.record_unreadable(PLURAL)
            self._log_unreadable(job)
        self._cached[key] = read
        self._key_of[identity.uid] = key
        self._on_change(key)

    def _log_unreadable(self, job: UnreadableJob) -> None:
        """Other words only, and once a minute: every event of the job comes here, and whoever may change it makes as many as he likes."""
        uid, (namespace, name), now = job.identity.uid, job.identity.key, time.monotonic()
        at, words = self._logged.get(uid, (float("-inf"), ""))
        if words == job.message or now - at < TELL_UNREADABLE_AGAIN_SECONDS:
            return
        self._logged[uid] = (now, job.message)
        log.error("job cannot be read: %s", job.message, extra={"namespace": namespace, "job": name})

    def _forget(self, key: Key, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > _MAX_TOMBSTONES:
            self._deleted.popitem(last=False)
        cached = self._cached.get(key)
        if cached is not None and cached.identity.uid == uid:
            del self._cached[key], self._key_of[uid]
            self._told_at.pop(uid, None)
            self._logged.pop(uid, None)
            self._on_change(key)

    async def fill(self) -> None:
        """Read all jobs; afterwards the cache is complete. Raises ApiError (404: the CRD is missing) and Unreachable."""
        for namespace in self._namespaces:
            found, _ = await self._client.list_all(collection_path(namespace), self._parse)
            for read in found:
                self._keep(read)

    async def sweep(self) -> None:
        """Compare with a metadata-only list: ghosts are forgotten, missed jobs are read. Raises ApiError and Unreachable."""
        for namespace in self._namespaces:
            found, version = await self._client.list_all(collection_path(namespace), parse_identity, accept=METADATA_ONLY)
            listed = {identity.key: identity for identity in found}
            for key, cached in list(self._cached.items()):
                mine = cached.identity
                is_listed = key in listed and listed[key].uid == mine.uid
                if namespace in {None, key[0]} and not is_listed and not is_newer(mine.version, version):
                    log.warning("a deleted job had been missed", extra={"namespace": key[0], "job": key[1]})
                    self._forget(key, mine.uid)
            for key, identity in listed.items():
                known = self._cached.get(key)
                if known is None or is_newer(identity.version, known.identity.version):
                    await self._read(key)

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> Written | Conflict | Gone:
        """One merge PATCH that names uid and resourceVersion. Raises ApiError (other refusals) and Unreachable."""
        cached = self._cached.get(job.key)
        if cached is None or cached.identity.uid != job.metadata.uid:
            return Gone()
        if cached.identity.version != job.metadata.resource_version:
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
            return Conflict() if newest is not None and newest.uid == job.metadata.uid else Gone()
        if answer is None:
            return Written(job=job)
        self._remember(answer)
        stored = parse_job(answer)
        if not isinstance(stored, FineTuneJob):
            return Conflict()
        self._on_written(job, stored.status)
        return Written(job=stored)

    async def tell_unreadable(self, key: Key) -> float | None:
        """One PATCH of the conditions, at most one a minute. Raises nothing."""
        cached, now = self._cached.get(key), time.monotonic()
        if cached is None or not isinstance(cached.job, UnreadableJob):
            return None
        left = self._told_at.get(cached.identity.uid, float("-inf")) + TELL_UNREADABLE_AGAIN_SECONDS - now
        if left > 0:
            return left
        patch = render_unreadable_patch(cached.job, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if patch is None:
            return SEEN_BY_THE_FEED_SECONDS
        self._told_at[cached.identity.uid] = now
        try:
            self._remember(await self._client.request("PATCH", f"{_path(key)}/status", body=patch, content_type=MERGE_PATCH))
        except (ApiError, Unreachable) as error:
            log.warning("the status does not say that the job cannot be read: %s", error, extra={"namespace": key[0], "job": key[1]})
        return TELL_UNREADABLE_AGAIN_SECONDS

    async def record(self, job: FineTuneJob, event: Event) -> None:
        self._recorder.record(job, event)

    async def _read(self, key: Key) -> JobIdentity | None:
        """The newest object, put into the cache; None when it is gone."""
        try:
            item = await self._client.request("GET", _path(key))
        except ApiError as error:
            if error.status != 404:
                raise
            known = self._cached.get(key)
            if known is not None:
                self._forget(key, known.identity.uid)
            return None
        self._remember(item)
        return parse_identity(item)


def _path(key: Key) -> str:
    return f"{collection_path(key[0])}/{key[1]}"
