"""The smallest JSON merge patch (RFC 7386) that takes an object to another one. Lists are replaced whole, with what others keep in them."""

import json
from typing import Any

JsonObject = dict[str, Any]
_KEYS = ("type", "serial", "formation")


def diff(stored: JsonObject, known: JsonObject, wanted: JsonObject) -> JsonObject:
    """What must be sent so that `stored` shows `wanted`.

    `known` is what we understood of `stored`: only its keys may be taken away (sent as null). Keys of a newer operator, which are
    in `stored` alone, stay as they are.
    """
    patch: JsonObject = {key: None for key in known if key not in wanted and key in stored}
    for key, plain in wanted.items():
        before = stored.get(key)
        are_lists = isinstance(plain, list) and isinstance(before, list)
        value = _with_unknown_fields(before, known.get(key), plain) if are_lists else plain
        if isinstance(value, dict) and isinstance(before, dict):
            understood = known.get(key)
            inner = diff(before, understood if isinstance(understood, dict) else {}, value)
            if inner:
                patch[key] = inner
        elif key not in stored or before != value:
            patch[key] = value
    return patch


def _with_unknown_fields(stored: Any, known: object, wanted: Any) -> list[Any]:
    """The list `wanted`, its entries with the fields of a newer operator that the stored ones of the same name hold."""
    if not isinstance(known, list) or len(known) != len(stored):
        return list(wanted)
    unknown = {
        _name_of(entry): {key: value for key, value in before.items() if key not in entry}
        for before, entry in zip(stored, known, strict=True)
        if isinstance(before, dict) and isinstance(entry, dict)
    }
    return [{**unknown.get(_name_of(entry), {}), **entry} if isinstance(entry, dict) else entry for entry in wanted]


def _name_of(entry: JsonObject) -> str:
    """By what an entry of a list is told from the others: its key field, or else all of it."""
    key = next((key for key in _KEYS if key in entry), None)
    return json.dumps(entry if key is None else {key: entry[key]}, sort_keys=True, default=str)
