"""JSON out of a text, a row's own or one within a row: each refusal says what is wrong and nothing of what the text holds."""

import json
import math
import re
from typing import Any

# Half of a surrogate pair can only come as an escape: UTF-8 has none.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DEPTH = 100
_MAX_DIGITS = 4000


class BadRow(Exception):
    """What is wrong with one row, in the user's words."""


def parse_json(text: str) -> Any:
    """Raises json.JSONDecodeError for what is no JSON, and BadRow for JSON that readers understand differently, or not at all."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_doubles,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise BadRow(f"is nested deeper than {_MAX_DEPTH} levels") from None
    check_value(value, has_surrogates=_SURROGATE.search(text) is not None)
    return value


def check_value(content: Any, *, has_surrogates: bool) -> None:
    """Raises BadRow for what is nested too deep, and for text that is no Unicode."""
    level: list[Any] = [content]
    for _ in range(_MAX_DEPTH):
        if has_surrogates and any(not _is_unicode(text) for value in level for text in _texts(value)):
            raise BadRow("half of a surrogate pair (\\ud800 to \\udfff) stands alone in a text; write the whole character")
        level = [
            part for value in level if isinstance(value, (dict, list)) for part in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise BadRow(f"is nested deeper than {_MAX_DEPTH} levels")


def shown_name(name: str) -> str:
    """The name of a column, in ASCII and bounded."""
    quoted = json.dumps(name)[1:-1]
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise BadRow(f"the key {shown_name(double)} is there twice in one object; keep one of them")
    return content


def _no_number(word: str) -> float:
    raise BadRow(f"{word} is not a JSON number; leave the field out, or write null")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BadRow("a number is too large for JSON's readers; write it as a string")
    return number


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise BadRow(f"a number has {len(digits)} digits; write it as a string")
    return int(digits)
