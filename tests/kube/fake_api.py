"""An API server as far as one test needs it: objects by path, names that are taken, compare-and-swap, merge patches."""

from collections.abc import Callable
from typing import Any

from finetune_operator.kube.client import ApiError

JsonObject = dict[str, Any]


class FakeApi:
    """Stands where the client stands. `log` holds (method, path) of every request; `broken` raises for each path that holds a word."""

    def __init__(self) -> None:
        self.objects: dict[str, JsonObject] = {}
        self.log: list[tuple[str, str]] = []
        self.broken: dict[str, Exception] = {}
        self._version = 1000

    def put(self, path: str, item: JsonObject) -> JsonObject:
        self._version += 1
        metadata = {"uid": f"uid-{self._version}", "creationTimestamp": "2026-01-01T00:01:00Z"} | item.get("metadata", {})
        stored = {**item, "metadata": metadata | {"resourceVersion": str(self._version)}}
        self.objects[path] = stored
        return stored

    def paths(self, part: str) -> list[str]:
        return [path for path in self.objects if part in path]

    async def request(self, method: str, path: str, *, body: JsonObject | None = None, **_: object) -> JsonObject:
        self.log.append((method, path))
        for word, error in self.broken.items():
            if word in path:
                raise error
        if method == "POST":
            return self._create(path, body or {})
        path = path.removesuffix("/status")
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        if method == "PATCH":
            return self._patch(path, body or {})
        return self.objects.pop(path) if method == "DELETE" else self.objects[path]

    async def list_all(self, path: str, read: Callable[[JsonObject], Any], *_: object, **__: object) -> tuple[list[Any], str]:
        self.log.append(("LIST", path))
        found = [read(item) for name, item in self.objects.items() if f"/{path.rpartition('/')[2]}/" in name]
        return [one for one in found if one is not None], str(self._version)

    def _create(self, path: str, body: JsonObject) -> JsonObject:
        name = f"{path}/{body['metadata']['name']}"
        if name in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} exists")
        return self.put(name, body)

    def _patch(self, path: str, body: JsonObject) -> JsonObject:
        stored = self.objects[path]
        wanted = body.get("metadata", {})
        if any(wanted.get(key, stored["metadata"][key]) != stored["metadata"][key] for key in ("uid", "resourceVersion")):
            raise ApiError(409, "Conflict", "the object was changed")
        return self.put(path, merge(stored, {**body, "metadata": {}}))


class Strangers:
    """What would be counted, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def record_foreign_pod(self, why: str) -> None:
        self.seen.append(why)

    def record_unreadable(self, resource: str) -> None:
        self.seen.append(resource)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result
