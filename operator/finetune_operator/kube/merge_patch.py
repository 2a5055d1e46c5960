"""The smallest JSON merge patch (RFC 7386) that takes an object to another one. Lists are replaced whole."""

from typing import Any

JsonObject = dict[str, Any]


def diff(stored: JsonObject, known: JsonObject, wanted: JsonObject) -> JsonObject:
    """What must be sent so that `stored` shows `wanted`.

    `known` is what we understood of `stored`: only its keys may be taken away (sent as null). Keys of a newer operator, which are
    in `stored` alone, stay as they are.
    """
    patch: JsonObject = {key: None for key in known if key not in wanted and key in stored}
    for key, value in wanted.items():
        before = stored.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            understood = known.get(key)
            inner = diff(before, understood if isinstance(understood, dict) else {}, value)
            if inner:
                patch[key] = inner
        elif key not in stored or before != value:
            patch[key] = value
    return patch
