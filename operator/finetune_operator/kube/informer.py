"""Keeps a cache equal to the API server: list, then watch, for ever.

410 leads to a new list whose key set is compared (deletions in a gap are noticed), a silent stream is given up, an error backs off.
It never ends by itself: while the API server is away the cache stays as it was.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.client import ApiClient, ApiError, JsonObject, Unreachable

T = TypeVar("T")
log = logging.getLogger(__name__)
_MAX_BACKOFF_SECONDS = 30.0


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


class Informer(Generic[T]):
    """`parse` gives None for an object that is not ours. `on_change` is called for every change, `on_gone` after a deletion.

    `on_list` is called after every list: events may have been missed before it.
    """

    def __init__(
        self,
        client: ApiClient,
        source: Source,
        cache: ObjectCache[T],
        *,
        parse: Callable[[JsonObject], Entry[T] | None],
        on_change: Callable[[Entry[T]], None],
        on_gone: Callable[[Entry[T]], None],
        on_list: Callable[[], None],
        random_source: random.Random,
    ) -> None:
        self._client, self._source, self._cache, self._parse = client, source, cache, parse
        self._on_change, self._on_gone, self._on_list, self._random = on_change, on_gone, on_list, random_source
        self._version: str | None = None
        self._unwatched: dict[str, tuple[str, str]] = {}
        self._num_failures = 0
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
                self._num_failures = 0
                await self._look_for_unwatched()
            except ApiError as error:
                self._num_failures += 1
                self._version = None
                log.log(logging.INFO if error.status == 410 else logging.WARNING, "watch of %s ended: %s", self._source.path, error)
            except Unreachable as error:
                self._num_failures += 1
                log.warning("%s", error)
            if self._num_failures > 1:
                await asyncio.sleep(self._backoff_seconds())

    async def _list(self) -> str:
        items, version = await self._client.list_all(self._source.path, {"labelSelector": self._source.label_selector})
        entries = [entry for item in items if (entry := self._parse(item)) is not None]
        changed, gone = self._cache.replace(self._source.namespace, entries, version)
        for entry in changed:
            self._on_change(entry)
        for entry in gone:
            self._on_gone(entry)
        self.synced.set()
        self._on_list()
        return version

    async def _watch(self, version: str) -> None:
        """Follow one stream to its end; every event moves the version to go on from."""
        query = {"labelSelector": self._source.label_selector, "resourceVersion": version}
        seconds = self._random.randint(240, 360)
        async for kind, item in self._client.watch(self._source.path, query, server_seconds=seconds):
            if kind == "DELETED":
                await self._delete(item)
            elif kind != "BOOKMARK":
                self._change(item)
            self._version = str(item["metadata"]["resourceVersion"])
            self._num_failures = 0

    def _change(self, item: JsonObject) -> None:
        entry = self._parse(item)
        if entry is not None and self._cache.apply(entry):
            self._on_change(entry)

    async def _delete(self, item: JsonObject) -> None:
        metadata = item["metadata"]
        if "deletionTimestamp" not in metadata and await self._exists(metadata["namespace"], metadata["name"], metadata["uid"]):
            log.warning("%s/%s lost the labels by which it is found, but still exists", metadata["namespace"], metadata["name"])
            self._unwatched[metadata["uid"]] = (metadata["namespace"], metadata["name"])
            return
        self._forget(metadata["uid"])

    async def _look_for_unwatched(self) -> None:
        """Nobody tells us about the end of an object that lost its labels: ask between two streams."""
        for uid, (namespace, name) in list(self._unwatched.items()):
            if not await self._exists(namespace, name, uid):
                del self._unwatched[uid]
                self._forget(uid)

    def _forget(self, uid: str) -> None:
        gone = self._cache.remove(uid)
        if gone is not None:
            self._on_gone(gone)

    async def _exists(self, namespace: str, name: str, uid: str) -> bool:
        """A watch with a selector says DELETED also when the label is taken off: ask before a member counts as lost."""
        try:
            found = await self._client.request("GET", f"{self._source.prefix}/namespaces/{namespace}/{self._source.resource}/{name}")
        except ApiError as error:
            return error.status != 404
        return bool(found["metadata"]["uid"] == uid)

    def _backoff_seconds(self) -> float:
        return float(min(_MAX_BACKOFF_SECONDS, 2 ** min(self._num_failures - 2, 5)) * self._random.uniform(0.5, 1.0))
