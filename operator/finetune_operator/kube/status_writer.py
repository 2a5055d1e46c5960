"""Sends status patches so that one value which the API server refuses never keeps the rest of a status from being written.

What it refuses is left out by field, told in the log and counted, and tried again after a minute. Intent is never left out: without it
nothing may follow, so its refusal is raised.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from finetune_operator.kube.client import MERGE_PATCH, ApiClient, ApiError, JsonObject
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.turns import INTENT_FIELDS
from finetune_operator.times import LEFT_OUT_SECONDS

log = logging.getLogger(__name__)
_MAX_TRIES = 4
_MAX_JOBS = 10_000
_MAX_DEPTH = 32

Path = tuple[str, ...]


class StatusWriter:
    """Remembers for each job what was refused, so that a pass does not send it again and again."""

    def __init__(self, client: ApiClient, meters: Meters, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._meters, self._clock = client, meters, clock
        self._left_out: dict[str, dict[Path, float]] = {}  # by job uid: the field, and until when

    async def write(self, path: str, patch: JsonObject) -> JsonObject | None:
        """The answer; None when all that is new was refused a moment ago. Raises ApiError and Unreachable."""
        uid = patch["metadata"]["uid"]
        kept = without(patch["status"], self._remembered(uid))
        kept = self._leave_out(uid, kept, tuple(not_finite(kept)), "it is not a finite number")
        for tries_left in reversed(range(_MAX_TRIES)):
            if not kept:
                return None
            try:
                return await self._client.request("PATCH", path, body={**patch, "status": kept}, content_type=MERGE_PATCH)
            except ApiError as error:
                suspects = suspected(kept, error.fields if tries_left > 1 else ())
                if error.status not in {400, 422} or not suspects or not tries_left:
                    raise
                kept = self._leave_out(uid, kept, suspects, error.message)
        raise AssertionError("unreachable code")

    def _remembered(self, uid: str) -> tuple[Path, ...]:
        now = self._clock()
        known = {field: until for field, until in self._left_out.pop(uid, {}).items() if until > now}
        if known:
            self._left_out[uid] = known
        return tuple(known)

    def _leave_out(self, uid: str, status: JsonObject, fields: tuple[Path, ...], why: str) -> JsonObject:
        for field in fields:
            self._left_out.setdefault(uid, {})[field] = self._clock() + LEFT_OUT_SECONDS
            self._meters.record_dropped_field(field[0])
            log.warning("status.%s is left out for a minute: %s", ".".join(field), why[:300], extra={"job_uid": uid})
        if len(self._left_out) > _MAX_JOBS:
            del self._left_out[next(iter(self._left_out))]
        return without(status, fields)


def not_finite(value: Any, at: Path = ()) -> Iterator[Path]:
    """Fields that hold a number that JSON does not know; of one inside a list, the field that holds the list."""
    if isinstance(value, dict) and len(at) < _MAX_DEPTH:
        for key, child in value.items():
            yield from not_finite(child, (*at, key))
    elif isinstance(value, float | list) and not _is_finite(value):
        yield at


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_finite(child) for child in value.values())
    if isinstance(value, list):
        return all(_is_finite(child) for child in value)
    return not isinstance(value, float) or math.isfinite(value)


def suspected(status: JsonObject, named: tuple[str, ...]) -> tuple[Path, ...]:
    """Fields of the report that a refusal names, as deep as they are in the patch; all of the report if it names none of them."""
    found = {_deepest(status, words) for words in named}
    of_report = tuple(sorted(field for field in found if field and field[0] not in INTENT_FIELDS))
    return of_report or tuple((key,) for key in status if key not in INTENT_FIELDS)


def _deepest(status: JsonObject, words: str) -> Path:
    """`status.conditions[1].reason` is in a list, which a merge patch replaces whole: `conditions`."""
    at, node = [], status
    for part in re.split(r"[.\[]", words.removeprefix("status."))[:_MAX_DEPTH]:
        if not isinstance(node, dict) or part not in node:
            break
        at.append(part)
        node = node[part]
    return tuple(at)


def without(status: JsonObject, fields: tuple[Path, ...]) -> JsonObject:
    """The same without these fields, and without what they leave empty."""
    kept: JsonObject = {}
    for key, value in status.items():
        inner = tuple(field[1:] for field in fields if field[0] == key)
        if () in inner:
            continue
        left = without(value, inner) if inner and isinstance(value, dict) else value
        if left != {} or value == {}:
            kept[key] = left
    return kept
