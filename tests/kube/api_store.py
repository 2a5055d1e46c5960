"""Objects as an API server keeps them: names, versions, compare-and-swap, grace, finalizers and owners.

It decides nothing that only a real API server decides: no validation, admission or quota, which tests script.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.kube.patches import Owners
from tests.kube.refusals import Refusal

JsonObject = dict[str, Any]
_PLACE = re.compile(r"^(/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?$")
_HAVE_STATUS = {"pods", "finetunejobs"}
_KEPT_METADATA = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


@dataclass(frozen=True)
class Place:
    """What a path of the API names."""

    prefix: str
    namespace: str | None
    plural: str
    name: str | None
    subresource: str | None

    @property
    def path(self) -> str:
        """Of the object."""
        return f"{self.collection}/{self.name}"

    @property
    def collection(self) -> str:
        return f"{self.prefix}/namespaces/{self.namespace}/{self.plural}" if self.namespace else f"{self.prefix}/{self.plural}"

    def holds(self, path: str) -> bool:
        """Whether the object at `path` is in the list of this collection."""
        other = place_of(path)
        return (other.prefix, other.plural) == (self.prefix, self.plural) and self.namespace in {None, other.namespace}


def place_of(path: str) -> Place:
    found = _PLACE.match(path)
    if found is None:
        raise Refusal(404, "NotFound", "the server could not find the requested resource")
    return Place(*found.groups())


@dataclass(frozen=True)
class Change:
    """One write: `before` is None for what is new, `after` for what is gone; a gone object has the version of its end."""

    path: str
    version: int
    before: JsonObject | None
    after: JsonObject | None


class ApiStore:
    """`objects` by path; `listeners` hear every change. `put` and `remove` are the hands of anybody else in the cluster."""

    def __init__(self) -> None:
        self.objects: dict[str, JsonObject] = {}
        self.changes: list[Change] = []
        self.listeners: list[Callable[[Change], None]] = []
        self.version = 1000
        self._owners: dict[str, Owners] = {}

    def put(self, path: str, item: JsonObject) -> JsonObject:
        """Store as it is, with a new version; what is new has an identity afterwards."""
        self.version += 1
        place, before = place_of(path), self.objects.get(path)
        own = {"uid": f"uid-{self.version}", "creationTimestamp": _stamp(0), "name": place.name, "generation": 1}
        if place.namespace:
            own["namespace"] = place.namespace
        metadata = own | (item.get("metadata") or {}) | {"resourceVersion": str(self.version)}
        self.objects[path] = {**item, "metadata": metadata}
        self._tell(Change(path, self.version, before, self.objects[path]))
        return self.objects[path]

    def remove(self, path: str) -> JsonObject:
        """It is gone at once: what a kubelet does when a pod has ended, and whoever forces a deletion."""
        self.version += 1
        before = self.objects.pop(path)
        self._owners.pop(path, None)
        gone = {**before, "metadata": before["metadata"] | {"resourceVersion": str(self.version)}}
        self._tell(Change(path, self.version, gone, None))
        return gone

    def paths(self, part: str) -> list[str]:
        return [path for path in self.objects if part in path]

    def get(self, place: Place) -> JsonObject:
        if place.path not in self.objects:
            raise Refusal(404, "NotFound", f'{place.plural} "{place.name}" not found')
        return self.objects[place.path]

    def owners(self, place: Place) -> Owners:
        return self._owners.setdefault(place.path, Owners())

    def create(self, place: Place, item: JsonObject, manager: str) -> JsonObject:
        name = item["metadata"]["name"]
        path = f"{place.collection}/{name}"
        if path in self.objects:
            raise Refusal(409, "AlreadyExists", f'{place.plural} "{name}" already exists')
        if item["metadata"].get("resourceVersion"):
            raise Refusal(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        fresh = {key: value for key, value in item.items() if key != "status" or place.plural not in _HAVE_STATUS}
        self._owners[path] = Owners()
        self._owners[path].wrote(manager, {}, fresh)
        return self.put(path, fresh)

    def replace(self, place: Place, item: JsonObject, manager: str | None) -> JsonObject:
        """PUT, and the end of every patch: whole objects, compared and swapped if they name uid or version. `manager` None: it applied."""
        stored, wanted = self.get(place), item.get("metadata") or {}
        for key in ("uid", "resourceVersion"):
            if wanted.get(key) not in {None, "", stored["metadata"][key]}:
                raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on {place.plural} "{place.name}": it has been modified')
        new = {**item, "metadata": wanted | {key: stored["metadata"][key] for key in _KEPT_METADATA if key in stored["metadata"]}}
        if place.subresource == "status":
            new = {**stored, "status": item.get("status")}
        elif place.plural in _HAVE_STATUS:
            new = {key: value for key, value in new.items() if key != "status"} | {"status": stored.get("status")}
        new = {key: value for key, value in new.items() if value is not None}
        new["metadata"] = new["metadata"] | {"resourceVersion": stored["metadata"]["resourceVersion"]}
        if new == stored:
            return stored  # nothing was changed: no new version, no event
        if new.get("spec") != stored.get("spec"):
            new["metadata"]["generation"] = stored["metadata"].get("generation", 1) + 1
        if manager is not None:
            self.owners(place).wrote(manager, stored, new)
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers") and place.plural != "pods":
            return self.remove(place.path)
        return self.put(place.path, new)

    def delete(self, place: Place, options: JsonObject) -> JsonObject:
        """A pod on a node has its grace, and what has finalizers waits for them."""
        stored = self.get(place)
        metadata = stored["metadata"]
        for key, value in (options.get("preconditions") or {}).items():
            if metadata[key] != value:
                raise Refusal(409, "Conflict", f"Precondition failed: {key} in precondition: {value}, in object meta: {metadata[key]}")
        grace = _grace_seconds(stored, options) if place.plural == "pods" else 0
        if grace == 0 and not metadata.get("finalizers"):
            gone = self.remove(place.path)
            return gone if place.plural == "pods" else {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        if grace < metadata.get("deletionGracePeriodSeconds", float("inf")):
            leaving = metadata | {"deletionTimestamp": _stamp(grace), "deletionGracePeriodSeconds": grace}
            return self.put(place.path, {**stored, "metadata": leaving})
        return stored

    def collect_garbage(self) -> list[str]:
        """What the garbage collector finds, until nothing is left to find: objects none of whose owners exists in their namespace."""
        found: list[str] = []
        while orphans := [path for path, item in self.objects.items() if self._is_orphan(path, item)]:
            for path in orphans:
                self.remove(path)
            found += orphans
        return found

    def _is_orphan(self, path: str, item: JsonObject) -> bool:
        owners = item["metadata"].get("ownerReferences") or []
        namespace = place_of(path).namespace
        alive = {other["metadata"]["uid"] for there, other in self.objects.items() if place_of(there).namespace in {None, namespace}}
        return bool(owners) and not any(owner.get("uid") in alive for owner in owners)

    def _tell(self, change: Change) -> None:
        self.changes.append(change)
        for listener in self.listeners:
            listener(change)


def _stamp(seconds: float) -> str:
    """So many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _grace_seconds(pod: JsonObject, options: JsonObject) -> int:
    """0 for a pod that no node runs."""
    spec, phase = pod.get("spec") or {}, (pod.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in {"Succeeded", "Failed"}:
        return 0
    return int(options.get("gracePeriodSeconds", spec.get("terminationGracePeriodSeconds", 30)))


def selects(selector: str, item: JsonObject | None) -> bool:
    """`key`, `!key`, `key=value` and `key!=value`, with commas between."""
    labels = ((item or {}).get("metadata") or {}).get("labels") or {}
    for term in filter(None, selector.split(",")):
        key, is_compared, value = term.partition("=")
        if is_compared and key.endswith("!"):
            fits = labels.get(key[:-1]) != value
        elif is_compared:
            fits = labels.get(key) == value.removeprefix("=")
        else:
            fits = key[1:] not in labels if key.startswith("!") else key in labels
        if not fits:
            return False
    return item is not None
