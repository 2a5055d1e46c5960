"""What an informer remembers: parsed objects by uid with an index by owner. Pure; it talks to nobody.

A uid that was seen deleted never comes back (a late answer to our own write would otherwise bring up a ghost).
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_operator.kube.versions import is_newer

T = TypeVar("T")
_MAX_TOMBSTONES = 20_000


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """`value` is the parsed object; `owner_key` and `owner_uid` name the job it belongs to."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    owner_key: tuple[str, str]
    owner_uid: str
    value: T


class ObjectCache(Generic[T]):
    """Every method that may change something says what changed, so that the caller can wake the owners."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry[T]] = {}
        self._by_owner: dict[tuple[str, str], dict[str, Entry[T]]] = {}  # by namespace and owner uid: no owner has children elsewhere
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, uid: str) -> Entry[T] | None:
        return self._entries.get(uid)

    def of_owner(self, namespace: str, owner_uid: str) -> tuple[T, ...]:
        return tuple(entry.value for entry in self._by_owner.get((namespace, owner_uid), {}).values())

    def apply(self, entry: Entry[T]) -> bool:
        """Remember the object; False when it is deleted already or we know a version as new."""
        before = self._entries.get(entry.uid)
        if entry.uid in self._deleted or (before is not None and not is_newer(entry.resource_version, before.resource_version)):
            return False
        if before is not None:
            self.discard(entry.uid)  # it may have another owner now
        self._entries[entry.uid] = entry
        self._by_owner.setdefault((entry.namespace, entry.owner_uid), {})[entry.uid] = entry
        return True

    def remove(self, uid: str) -> Entry[T] | None:
        """Forget the object for ever; what was known of it, if anything."""
        self._deleted[uid] = None
        if len(self._deleted) > _MAX_TOMBSTONES:
            self._deleted.popitem(last=False)
        return self.discard(uid)

    def discard(self, uid: str) -> Entry[T] | None:
        """Forget the object until it is seen again: it is not ours for now."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            owner = (entry.namespace, entry.owner_uid)
            self._by_owner[owner].pop(uid)
            if not self._by_owner[owner]:
                del self._by_owner[owner]
        return entry

    def replace(self, namespace: str | None, listed: Iterable[Entry[T]], version: str) -> tuple[list[Entry[T]], list[Entry[T]]]:
        """Take over a complete list of `namespace` (None: of all) made at `version`: (changed, vanished).

        What we know and the list lacks is a ghost, unless it was written after the list was made.
        """
        listed = list(listed)
        present = {entry.uid for entry in listed}
        ghosts = [
            entry
            for entry in self._entries.values()
            if entry.uid not in present and namespace in {None, entry.namespace} and not is_newer(entry.resource_version, version)
        ]
        for ghost in ghosts:
            self.remove(ghost.uid)
        return [entry for entry in listed if self.apply(entry)], ghosts
