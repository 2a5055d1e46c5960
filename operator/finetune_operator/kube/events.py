"""Writes Kubernetes events about jobs in the background; it never fails and never slows a pass.

The same event again within ten minutes raises the count of its series; while it waits, it is counted only. A job may write 25 at once
and one every ten seconds, a namespace 100 and one a second; namespaces take turns.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.api.job import API_VERSION, KIND, FineTuneJob
from finetune_operator.decide.answers.decision import Event
from finetune_operator.kube.client import MERGE_PATCH, ApiClient, ApiError, JsonObject, Unreachable
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.turns import Pace
from finetune_operator.reconcile.ports import Clock
from finetune_operator.times import EVENT_SERIES_SECONDS

log = logging.getLogger(__name__)
REPORTER = "finetune.dev/operator"
_MAX_WAITING = 100  # in one namespace
_MAX_PACES = 5000
_MAX_SERIES = 5000
_MAX_NOTE_BYTES = 1000
_OF_A_JOB = (0.1, 25)  # a second, and at once
_OF_A_NAMESPACE = (1.0, 100)

_Told = tuple[str, Event]  # uid of the job


@dataclass(kw_only=True)
class _Series:
    name: str
    count: int
    last_at: datetime


@dataclass(kw_only=True)
class _Waiting:
    job: FineTuneJob
    event: Event
    at: datetime
    count: int = 1


class _Paces:
    """Budgets by name; the one that was used longest ago is forgotten first."""

    def __init__(self, budget: tuple[float, float], clock: Callable[[], float]) -> None:
        self._budget, self._clock = budget, clock
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def try_take(self, name: str) -> bool:
        pace = self._paces.pop(name, None) or Pace(*self._budget, clock=self._clock)
        self._paces[name] = pace
        if len(self._paces) > _MAX_PACES:
            self._paces.popitem(last=False)
        return pace.try_take()


class EventRecorder:
    """`record` puts an event into the bounded line of its namespace; `run` posts them."""

    def __init__(
        self, client: ApiClient, *, instance: str, clock: Clock, monotonic: Callable[[], float], meters: Meters | None = None
    ) -> None:
        self._client, self._instance, self._clock, self._meters = client, instance, clock, meters
        self._lines: OrderedDict[str, OrderedDict[_Told, _Waiting]] = OrderedDict()
        self._is_filled = asyncio.Event()
        self._jobs, self._namespaces = _Paces(_OF_A_JOB, monotonic), _Paces(_OF_A_NAMESPACE, monotonic)
        self._series: OrderedDict[_Told, _Series] = OrderedDict()

    def record(self, job: FineTuneJob, event: Event) -> None:
        """An event too many is dropped: events inform, nothing depends on them."""
        namespace, told = job.metadata.namespace, (job.metadata.uid, event)
        line = self._lines.get(namespace, OrderedDict())
        if told in line:
            line[told].count += 1
            line[told].at = self._clock.now()
            return
        is_free = self._jobs.try_take(job.metadata.uid) and self._namespaces.try_take(namespace) and len(line) < _MAX_WAITING
        if not is_free:
            log.info("event dropped: %s", event.reason, extra={"namespace": namespace, "job": job.metadata.name})
            if self._meters is not None:
                self._meters.record_dropped_event()
            return
        line[told] = _Waiting(job=job, event=event, at=self._clock.now())
        self._lines[namespace] = line
        self._is_filled.set()

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            await self._is_filled.wait()
            waiting = self._next()
            job, event = waiting.job, waiting.event
            try:
                await self._post(waiting)
            except (ApiError, Unreachable) as error:
                log.warning("event %s was not written: %s", event.reason, error, extra={"namespace": job.key[0], "job": job.key[1]})

    def _next(self) -> _Waiting:
        """The oldest of the namespace whose turn it is; the namespace goes to the end if more of it wait."""
        namespace, line = self._lines.popitem(last=False)
        _, waiting = line.popitem(last=False)
        if line:
            self._lines[namespace] = line
        elif not self._lines:
            self._is_filled.clear()
        return waiting

    async def _post(self, waiting: _Waiting) -> None:
        job, event, at = waiting.job, waiting.event, waiting.at
        path = f"/apis/events.k8s.io/v1/namespaces/{job.metadata.namespace}/events"
        key = (job.metadata.uid, event)
        series = self._series.pop(key, None)
        if series is not None and (at - series.last_at).total_seconds() < EVENT_SERIES_SECONDS:
            series.count, series.last_at = series.count + waiting.count, at
            self._series[key] = series
            try:
                patch = {"series": _render_series(series)}
                await self._client.request("PATCH", f"{path}/{series.name}", body=patch, content_type=MERGE_PATCH)
                return
            except ApiError as error:
                if error.status != 404:  # 404: events live for an hour
                    raise
        name = f"{job.metadata.name}.{uuid.uuid4().hex[:16]}"
        self._series[key] = series = _Series(name=name, count=waiting.count, last_at=at)
        if len(self._series) > _MAX_SERIES:
            self._series.popitem(last=False)
        body = render_event(job, event, name=name, instance=self._instance, at=at)
        await self._client.request("POST", path, body=body if series.count == 1 else {**body, "series": _render_series(series)})


def _render_series(series: _Series) -> JsonObject:
    return {"count": series.count, "lastObservedTime": _micro_time(series.last_at)}


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
