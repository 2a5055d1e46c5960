"""Types of the contract's fields with their bounds: whatever parses is small enough for every part to keep, compute with and write.

Numbers and names beyond their bounds are refused. Text for people is cut and loses its control characters instead.
Formats (digests, places, keys, reasons) are checked where a value comes over a border: `validate_json(..., context=BORDER)`.
"""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

MAX_COUNT = 2**53 - 1  # the greatest integer that every reader of JSON keeps exactly
MAX_STEP = 10**12 - 1  # these two have at most 12 and 9 digits, which is what the key of a commit can name
MAX_FORMATION = 10**9 - 1
MAX_RANK = 2**16 - 1
MAX_PEERS = 256
MAX_SECONDS = 1e9  # about 30 years; a moment so far away is still a date
MAX_REAL = 1e39  # beyond every finite fp32
MAX_MESSAGE_CHARS = 1000
MAX_TRACEBACK_CHARS = 2000
BORDER = "border"  # validation context of what another process sent

# All of C0 and C1 but tab and newline, line separators, marks that turn the direction of text, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"[a-z][a-z0-9]{0,15}://\S[^\x00-\x1f\x7f-\x9f]*")
_KEY = re.compile(r"(?!.*\.\.)[A-Za-z0-9._-][A-Za-z0-9._/-]*")


def printable(text: str) -> str:
    """`text` without control characters; tabs and newlines stay."""
    return _UNPRINTABLE.sub("", text)


def _cut(max_chars: int, *, keeps_end: bool = False) -> Callable[[Any], Any]:
    def cut(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = printable(value)
        return text[-max_chars:] if keeps_end else text[:max_chars]

    return cut


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format(pattern: re.Pattern[str], what: str) -> Callable[[str, ValidationInfo], str]:
    def check(value: str, info: ValidationInfo) -> str:
        if info.context == BORDER and not pattern.fullmatch(value):
            raise ValueError(f"wanted {what}")
        return value

    return check


def one_of(known: frozenset[str], otherwise: str) -> AfterValidator:
    """Over a border, a word that is not `known` means `otherwise`."""

    def choose(value: str, info: ValidationInfo) -> str:
        return otherwise if info.context == BORDER and value not in known else value

    return AfterValidator(choose)


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]
FormationNumber = Annotated[int, Field(ge=0, le=MAX_FORMATION)]
Rank = Annotated[int, Field(ge=0, le=MAX_RANK)]
Port = Annotated[int, Field(ge=1, le=2**16 - 1)]
Version = Annotated[int, Field(ge=1, le=10**6)]
ExitStatus = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Real = Annotated[float, Field(ge=-MAX_REAL, le=MAX_REAL)]
Amount = Annotated[float, Field(ge=0, le=MAX_REAL)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
RealOrNone = Annotated[Real | None, BeforeValidator(_finite_or_none)]  # what is not finite is told apart, in words

Uid = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:%\[\]-]{1,253}$")]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:%\[\]-]{1,270}$")]  # of a host, or of a host and a port
Word = Annotated[str, BeforeValidator(_cut(64))]
Name = Annotated[str, BeforeValidator(_cut(253))]
Digest = Annotated[str, Field(max_length=64), AfterValidator(_format(_DIGEST, "a SHA-256 as 64 hexadecimal digits"))]
Revision = Annotated[str, BeforeValidator(_cut(256))]
Place = Annotated[str, Field(max_length=1024), AfterValidator(_format(_PLACE, "a place such as s3://bucket/path"))]
Key = Annotated[str, Field(max_length=1024), AfterValidator(_format(_KEY, "a key such as a/commit/b.json"))]
MessageText = Annotated[str, BeforeValidator(_cut(MAX_MESSAGE_CHARS))]
TracebackText = Annotated[str, BeforeValidator(_cut(MAX_TRACEBACK_CHARS, keeps_end=True))]
