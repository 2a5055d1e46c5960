"""Keeps a cache equal to the API server: list, then watch, for ever.

410 leads to a new list whose key set is compared (deletions in a gap are noticed), a silent stream is given up, an error backs off.
It never ends by itself: while the API server is away the cache stays as it was, and an object that cannot be read changes nothing.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from finetune_contract.backoff import Backoff
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.client import ApiClient, ApiError, JsonObject, Unreachable
from finetune_operator.kube.shape import Unreadable, section, text
from finetune_operator.times import (
    HEALTHY_STREAM_SECONDS,
    LATE_STREAM_SECONDS,
    LEAST_STREAM_SECONDS,
    MOST_STREAM_SECONDS,
    WATCH_FIRST_BACKOFF_SECONDS,
    WATCH_MAX_BACKOFF_SECONDS,
)

_BACKOFF = Backoff(first_seconds=WATCH_FIRST_BACKOFF_SECONDS, longest_seconds=WATCH_MAX_BACKOFF_SECONDS)
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One thing to list and watch; `namespace` None: in all namespaces."""

    resource: str  # "/api/v1" + "/pods" is "/api/v1", "pods"
    prefix: str
    namespace: str | None
    label_selector: str

    @property
    def path(self) -> str:
        return f"{self.prefix}/namespaces/{self.namespace}/{self.resource}" if self.namespace else f"{self.prefix}/{self.resource}"


class Strangers(Protocol):
    """Counts objects that wear our labels and are not ours, and those that cannot be read."""

    def record_foreign_pod(self, why: str) -> None: ...

    def record_unreadable(self, resource: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Listeners(Generic[T]):
    """`on_change` is called for every change, `on_gone` when an object ends or belongs to its owner no more.

    `on_gap` is called after every list, and after a stream that broke: events of other kinds may have been missed as well.
    """

    on_change: Callable[[Entry[T]], None]
    on_gone: Callable[[Entry[T]], None]
    on_gap: Callable[[], None]


class Informer(Generic[T]):
    """`parse` gives None for an object that is not ours."""

    def __init__(
        self,
        client: ApiClient,
        source: Source,
        cache: ObjectCache[T],
        *,
        parse: Callable[[object], Entry[T] | Unreadable | None],
        listeners: Listeners[T],
        strangers: Strangers,
        random_source: random.Random,
    ) -> None:
        self._client, self._source, self._cache, self._parse = client, source, cache, parse
        self._listeners, self._strangers, self._random = listeners, strangers, random_source
        self._version: str | None = None
        self._unwatched: dict[str, tuple[str, str]] = {}
        self._num_failures = 0
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            began = time.monotonic()
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
                await self._look_for_unwatched()
                has_failed = time.monotonic() - began < HEALTHY_STREAM_SECONDS
            except Unreachable as error:
                has_failed = True
                log.warning("%s", error)
                self._listeners.on_gap()
            except ApiError as error:
                has_failed, self._version = True, None
                log.log(logging.INFO if error.status == 410 else logging.WARNING, "watch of %s ended: %s", self._source.path, error)
            except Exception:  # the border that must not die: whatever came, the next list begins anew
                has_failed, self._version = True, None
                log.exception("watch of %s ended", self._source.path)
                self._strangers.record_unreadable(self._source.resource)
            is_in_a_row = has_failed and time.monotonic() - began < HEALTHY_STREAM_SECONDS
            self._num_failures = self._num_failures + 1 if is_in_a_row else int(has_failed)
            if self._num_failures > 1:
                await asyncio.sleep(_BACKOFF.spread_after(self._num_failures - 1, self._random))

    async def _list(self) -> str:
        listed, version = await self._client.list_all(self._source.path, self._read, {"labelSelector": self._source.label_selector})
        listed += [entry for uid in self._unwatched if (entry := self._cache.get(uid)) is not None]
        changed, gone = self._cache.replace(self._source.namespace, listed, version)
        for entry in changed:
            self._listeners.on_change(entry)
        for entry in gone:
            self._listeners.on_gone(entry)
        self.synced.set()
        self._listeners.on_gap()
        return version

    async def _watch(self, version: str) -> None:
        """Follow one stream to its end; every event moves the version to go on from."""
        query = {"labelSelector": self._source.label_selector, "resourceVersion": version}
        seconds = self._random.randint(LEAST_STREAM_SECONDS, MOST_STREAM_SECONDS)
        stream = self._client.watch(self._source.path, query, server_seconds=seconds, inactivity_seconds=seconds + LATE_STREAM_SECONDS)
        async for kind, item in stream:
            if kind == "DELETED":
                await self._delete(item)
            elif kind != "BOOKMARK":
                self._change(item)
            self._version = text(section(item, "metadata"), "resourceVersion") or self._version

    def _change(self, item: JsonObject) -> None:
        entry, before = self._read(item), self._cache.get(text(section(item, "metadata"), "uid"))
        if entry is None and before is not None:
            self._cache.discard(before.uid)
            self._listeners.on_gone(before)
        elif entry is not None and self._cache.apply(entry):
            if before is not None and before.owner_uid != entry.owner_uid:
                self._listeners.on_gone(before)
            self._listeners.on_change(entry)

    def _read(self, item: JsonObject) -> Entry[T] | None:
        """None for what is not ours; of what cannot be read, the version before stands."""
        read = self._parse(item)
        if isinstance(read, Unreadable):
            log.warning("one of %s cannot be read: %s", self._source.resource, read.why)
            self._strangers.record_unreadable(self._source.resource)
            return self._cache.get(text(section(item, "metadata"), "uid"))
        if read is None:
            self._strangers.record_foreign_pod("not_controlled")
        return read

    async def _delete(self, item: JsonObject) -> None:
        metadata = section(item, "metadata")
        namespace, name, uid = text(metadata, "namespace"), text(metadata, "name"), text(metadata, "uid")
        if self._cache.get(uid) is not None and "deletionTimestamp" not in metadata and await self._find(namespace, name, uid) is not None:
            log.warning("%s/%s lost the labels by which it is found, but still exists", namespace, name)
            self._unwatched[uid] = (namespace, name)
            return
        self._forget(uid)

    async def _look_for_unwatched(self) -> None:
        """Nobody tells us about an object that lost its labels: ask between two streams."""
        for uid, (namespace, name) in list(self._unwatched.items()):
            found = await self._find(namespace, name, uid)
            if found:
                self._change(found)
            elif found is None:
                del self._unwatched[uid]
                self._forget(uid)

    def _forget(self, uid: str) -> None:
        gone = self._cache.remove(uid)
        if gone is not None:
            self._listeners.on_gone(gone)

    async def _find(self, namespace: str, name: str, uid: str) -> JsonObject | None:
        """A watch with a selector says DELETED also when the label is taken off: ask before a member counts as lost.

        None: it is gone; empty: there is no telling.
        """
        try:
            found = await self._client.request("GET", f"{self._source.prefix}/namespaces/{namespace}/{self._source.resource}/{name}")
        except ApiError as error:
            return None if error.status == 404 else {}
        return found if text(section(found, "metadata"), "uid") == uid else None
