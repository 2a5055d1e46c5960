"""Reads parts of live objects whatever is in them: a part of another kind than wanted counts as absent. Nothing here raises."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

JsonObject = dict[str, Any]
_MAX_TEXT = 4096


@dataclass(frozen=True)
class Unreadable:
    """An object of the right kind in which something is missing or wrong, without which it means nothing. `why` names the part."""

    why: str


def section(value: object, *path: str) -> JsonObject:
    """The object at `path`; empty when there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def entries(value: object, key: str) -> list[JsonObject]:
    """The objects in the list of that name; others in it are left out."""
    found = value.get(key) if isinstance(value, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def text(value: object, key: str) -> str:
    """The string of that name, cut to a sane length; empty when there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found[:_MAX_TEXT] if isinstance(found, str) else ""


def whole(value: object, key: str) -> int | None:
    """The whole number of that name."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def moment(value: object, key: str) -> datetime | None:
    """The time of that name, if it names its offset to UTC."""
    try:
        found = datetime.fromisoformat(text(value, key))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
