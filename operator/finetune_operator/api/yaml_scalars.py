"""Plain YAML scalars and keys as kubectl reads them (go-yaml v2, then encoding/json). Pure.

No timestamp, no number in base 60: `2024-05-01` and `1:30` are strings. A float without a fraction is an integer, as JSON writes it.
"""

import base64
import binascii
import math
import re

Scalar = str | int | float | bool | None

_TRUE = {word for base in ("y", "yes", "true", "on") for word in (base, base.capitalize(), base.upper())}
_FALSE = {word for base in ("n", "no", "false", "off") for word in (base, base.capitalize(), base.upper())}
_NULL = {"", "~", "null", "Null", "NULL"}
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|0[0-7]*|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_MAX_NUMBER_CHARS = 400  # no number of a job has more digits; longer ones stay strings
_TAG = "tag:yaml.org,2002:"
_TAGS = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


def read_plain(text: str) -> Scalar:
    """A scalar without quotes and without a tag. Raises ValueError for what JSON cannot say."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text in _NULL:
        return None
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that JSON can express")
    if text[0] not in "+-.0123456789" or len(text) > _MAX_NUMBER_CHARS:
        return text
    digits = text if text[0] == "." else text.replace("_", "")
    if _INTEGER.fullmatch(digits):
        return _as_json(_read_integer(digits))
    if _FLOAT.fullmatch(digits) and math.isfinite(number := float(digits)):
        return _as_json(number)
    return text


def read_tagged(tag: str, text: str) -> Scalar:
    """A scalar with a tag of its own; tags that YAML does not define are ignored. Raises ValueError."""
    name = tag.removeprefix(_TAG) if tag.startswith(_TAG) else ""
    if name == "binary":
        try:
            return base64.b64decode(text, validate=True).decode(errors="replace")
        except binascii.Error as error:
            raise ValueError("!!binary is not base64") from error
    if name not in _TAGS:
        return text
    value = read_plain(text)
    if type(value) not in _TAGS[name]:
        raise ValueError(f"{text!r} is not a valid !!{name}")
    return value


def read_key(value: Scalar) -> str:
    """A key as a string: `1: x` is "1", `on: x` is "true". Raises ValueError."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    raise ValueError("a key without a name; give it one, or put it in quotes")


def _read_integer(text: str) -> int | float:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    is_octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567"
    number = sign * (int(digits, 8) if is_octal else int(digits, 0))
    return number if -(2**63) <= number < 2**64 else float(digits) * sign if digits.isdigit() else float(number)


def _as_json(number: int | float) -> int | float:
    """encoding/json writes a float without a fraction as an integer, up to 1e21."""
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 1e21 else number
