"""The kinds of patch that an API server applies, each on plain JSON. Owners of fields are asked about by server-side apply alone."""

from collections.abc import Callable
from typing import Any

from tests.kube.refusals import Refusal

JsonObject = dict[str, Any]
Leaf = tuple[str, ...]


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    return _merged(target, patch, merge)


def merge_by_name(target: Any, patch: Any) -> Any:
    """A strategic merge patch, of lists that are merged by `name`."""
    if isinstance(patch, list) and all(isinstance(entry, dict) and "name" in entry for entry in patch):
        known = {entry["name"]: entry for entry in target or []}
        return list((known | {entry["name"]: merge_by_name(known.get(entry["name"]), entry) for entry in patch}).values())
    return _merged(target, patch, merge_by_name)


def _merged(target: Any, patch: Any, merge_values: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_values(result.get(key), value)
    return result


def json_patch(target: JsonObject, operations: list[JsonObject]) -> JsonObject:
    """RFC 6902, but for `move` and `copy`. Whole or not at all."""
    result = merge(target, {})
    for operation in operations:
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        node: Any = result
        for key in parents:
            inner = node[int(key)] if isinstance(node, list) else node.get(key)
            if not isinstance(inner, dict | list):
                raise Refusal(422, "Invalid", f"the path {operation['path']} does not exist")
            inner = dict(inner) if isinstance(inner, dict) else list(inner)
            node[int(key) if isinstance(node, list) else key] = inner
            node = inner
        _apply_operation(node, last, operation)
    return result


def _apply_operation(node: Any, last: str, operation: JsonObject) -> None:
    kind, key = operation["op"], int(last) if isinstance(node, list) and last != "-" else last
    exists = key in node if isinstance(node, dict) else isinstance(key, int) and key < len(node)
    if kind != "add" and not exists:
        raise Refusal(422, "Invalid", f"the path {operation['path']} does not exist")
    if kind == "test" and node[key] != operation["value"]:
        raise Refusal(422, "Invalid", f"testing value {operation['path']} failed: test failed")
    if kind == "remove":
        del node[key]
    elif kind == "replace" or (kind == "add" and isinstance(node, dict)):
        node[key] = operation["value"]
    elif kind == "add":
        node.insert(len(node) if key == "-" else key, operation["value"])


class Owners:
    """Who owns which fields of one object: whoever wrote them last, or applied the same."""

    def __init__(self) -> None:
        self._of: dict[str, set[Leaf]] = {}

    def wrote(self, manager: str, before: JsonObject, after: JsonObject) -> None:
        """By any verb but apply: what changed is the writer's alone."""
        old, new = leaves(before), leaves(after)
        changed = {leaf for leaf in old.keys() | new.keys() if old.get(leaf) != new.get(leaf)}
        for fields in self._of.values():
            fields.difference_update(changed)
        self._of.setdefault(manager, set()).update(changed & new.keys())

    def apply(self, manager: str, stored: JsonObject, wanted: JsonObject, *, is_forced: bool) -> JsonObject:
        """The object after a server-side apply. Lists are atomic."""
        asked, held = leaves(wanted), leaves(stored)
        others = {name: fields & asked.keys() for name, fields in self._of.items() if name != manager}
        rivals = {name: {leaf for leaf in fields if held.get(leaf) != asked[leaf]} for name, fields in others.items()}
        named = [f'conflict with "{name}": .{".".join(leaf)}' for name, fields in rivals.items() for leaf in sorted(fields)]
        if named and not is_forced:
            raise Refusal(409, "Conflict", f"Apply failed with {len(named)} conflicts: {'; '.join(named)}")
        for name, fields in rivals.items():
            self._of[name] -= fields
        given_up = self._of.get(manager, set()) - asked.keys() - set().union(*(self._of[name] for name in others))
        self._of[manager] = set(asked)
        result = stored
        for leaf in given_up:
            result = merge(result, _nested(leaf, None))
        return dict(merge(result, wanted))


def leaves(value: Any, at: Leaf = ()) -> dict[Leaf, Any]:
    """Of spec, status, data and the two maps of metadata that a client writes."""
    if not isinstance(value, dict):
        return {at: value}
    hidden = {(), ("metadata",)}
    kept = {key: inner for key, inner in value.items() if at not in hidden or key not in _NOT_OWNED[len(at)]}
    return {leaf: found for key, inner in kept.items() for leaf, found in leaves(inner, (*at, key)).items()}


_NOT_OWNED = (
    {"apiVersion", "kind"},
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"},
)


def _nested(leaf: Leaf, value: Any) -> JsonObject:
    return {leaf[0]: value if len(leaf) == 1 else _nested(leaf[1:], value)}
