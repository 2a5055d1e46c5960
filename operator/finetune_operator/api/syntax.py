"""How Kubernetes spells names, labels and images: patterns for the resource definition, and the rules that no pattern can say."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from finetune_operator.api.quantities import QUANTITY_PATTERN

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN_PATTERN = rf"^{_LABEL}(\.{_LABEL})*$"
LABEL_VALUE_PATTERN = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_WORD = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
IMAGE_PATTERN = rf"^({_HOST}/)?{_WORD}(/{_WORD})*(:[A-Za-z0-9_][-A-Za-z0-9_.]{{0,127}})?(@sha256:[0-9a-f]{{64}})?$"
_NO_CONTROL = "^[^\\x00-\\x1f\\x7f]*$"
# What a pattern stands for, in the words of a message.
MEANING = {
    SUBDOMAIN_PATTERN: "a name of lower case letters, digits, '-' and '.', such as s3-credentials",
    LABEL_VALUE_PATTERN: "a label value: letters, digits, '-', '_' and '.', a letter or digit at both ends",
    IMAGE_PATTERN: "an image, such as registry.example/team/trainer:1.0",
    _NO_CONTROL: "text without control characters",
    QUANTITY_PATTERN: "a quantity that is not negative, such as 128Gi, 500m or 8",
    "^[!-~]+$": "letters, digits and signs without blanks",
    "^https?://[!-~]+$": "a URL, such as https://s3.example",
    "^[-A-Za-z0-9_.]+$": "letters, digits, '-', '_' and '.'",
}

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]
AnnotationValue = Annotated[str, Field(max_length=8192)]
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=IMAGE_PATTERN)]
Text = Annotated[str, Field(pattern=_NO_CONTROL)]
OneWord = Annotated[str, Field(min_length=1, pattern="^[!-~]+$")]
Url = Annotated[str, Field(max_length=512, pattern="^https?://[!-~]+$")]
Identifier = Annotated[str, Field(min_length=1, max_length=253, pattern="^[-A-Za-z0-9_.]+$")]
QuantityText = Annotated[str, Field(min_length=1, max_length=48, pattern=QUANTITY_PATTERN)]

_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
MAX_ANNOTATION_BYTES = 256 * 1024


def is_subdomain(text: str) -> bool:
    return len(text) <= 253 and re.fullmatch(SUBDOMAIN_PATTERN, text) is not None


def is_label_value(text: str) -> bool:
    return len(text) <= 63 and re.fullmatch(LABEL_VALUE_PATTERN, text) is not None


def is_qualified_name(key: str) -> bool:
    """`name` or `prefix/name`, as keys of labels, annotations, taints and resources are."""
    prefix, slash, name = key.rpartition("/")
    return _NAME_PART.fullmatch(name) is not None and (not slash or is_subdomain(prefix))


def label_faults(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong)."""
    yield from key_faults(labels)
    for key, value in labels.items():
        if not is_label_value(value):
            yield key, f"got {value[:80]!r}, wanted {MEANING[LABEL_VALUE_PATTERN]}, at most 63"


def annotation_faults(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from key_faults({key.lower(): value for key, value in annotations.items()})
    size = sum(len(key.encode(errors="replace")) + len(value.encode(errors="replace")) for key, value in annotations.items())
    if size > MAX_ANNOTATION_BYTES:
        yield "", f"are {size} bytes, at most {MAX_ANNOTATION_BYTES} are allowed"


def key_faults(entries: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key in entries:
        if not is_qualified_name(key):
            yield key, "is not a key: wanted NAME or PREFIX/NAME, of letters, digits, '-', '_' and '.', at most 63 after the slash"
