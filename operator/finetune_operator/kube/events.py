"""Writes Kubernetes events about jobs in the background; it never fails and never slows a pass.

The same event again within ten minutes raises the count of its series. A job may write 25 at once and one every ten seconds.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.api.job import API_VERSION, KIND, FineTuneJob
from finetune_operator.decide.decision import Event
from finetune_operator.kube.client import MERGE_PATCH, ApiClient, ApiError, JsonObject, Pace, Unreachable
from finetune_operator.reconcile.ports import Clock

log = logging.getLogger(__name__)
REPORTER = "finetune.dev/operator"
_MAX_WAITING = 1000
_MAX_JOBS = 5000
_MAX_SERIES = 5000
_MAX_NOTE_BYTES = 1000
_SERIES_SECONDS = 600.0


@dataclass(kw_only=True)
class _Series:
    name: str
    count: int
    last_at: datetime


class EventRecorder:
    """`record` puts an event into a bounded queue; `run` posts them in order."""

    def __init__(self, client: ApiClient, *, instance: str, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._client, self._instance, self._clock, self._monotonic = client, instance, clock, monotonic
        self._queue: asyncio.Queue[tuple[FineTuneJob, Event, datetime]] = asyncio.Queue(_MAX_WAITING)
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._series: OrderedDict[tuple[str, Event], _Series] = OrderedDict()

    def record(self, job: FineTuneJob, event: Event) -> None:
        """An event too many is dropped: events inform, nothing depends on them."""
        uid = job.metadata.uid
        pace = self._paces.pop(uid, None) or Pace(rate=0.1, burst=25, clock=self._monotonic)
        self._paces[uid] = pace
        if len(self._paces) > _MAX_JOBS:
            self._paces.popitem(last=False)
        if not pace.try_take() or self._queue.full():
            log.info("event dropped: %s", event.reason, extra={"namespace": job.key[0], "job": job.key[1]})
            return
        self._queue.put_nowait((job, event, self._clock.now()))

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            job, event, at = await self._queue.get()
            try:
                await self._post(job, event, at)
            except (ApiError, Unreachable) as error:
                log.warning("event %s was not written: %s", event.reason, error, extra={"namespace": job.key[0], "job": job.key[1]})

    async def _post(self, job: FineTuneJob, event: Event, at: datetime) -> None:
        path = f"/apis/events.k8s.io/v1/namespaces/{job.metadata.namespace}/events"
        key = (job.metadata.uid, event)
        series = self._series.pop(key, None)
        if series is not None and (at - series.last_at).total_seconds() < _SERIES_SECONDS:
            series.count, series.last_at = series.count + 1, at
            self._series[key] = series
            patch = {"series": {"count": series.count, "lastObservedTime": _micro_time(at)}}
            try:
                await self._client.request("PATCH", f"{path}/{series.name}", body=patch, content_type=MERGE_PATCH)
                return
            except ApiError as error:
                if error.status != 404:  # 404: events live for an hour
                    raise
        name = f"{job.metadata.name}.{uuid.uuid4().hex[:16]}"
        self._series[key] = _Series(name=name, count=1, last_at=at)
        if len(self._series) > _MAX_SERIES:
            self._series.popitem(last=False)
        await self._client.request("POST", path, body=render_event(job, event, name=name, instance=self._instance, at=at))


def render_event(job: FineTuneJob, event: Event, *, name: str, instance: str, at: datetime) -> JsonObject:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": job.metadata.namespace},
        "eventTime": _micro_time(at),
        "reportingController": REPORTER,
        "reportingInstance": instance[:128],
        "action": event.reason[:128],
        "reason": event.reason[:128],
        "type": event.type,
        "note": event.message.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore"),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": job.metadata.namespace,
            "name": job.metadata.name,
            "uid": job.metadata.uid,
        },
    }


def _micro_time(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
