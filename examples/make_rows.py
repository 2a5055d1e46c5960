"""Writes support/rows.jsonl: chat rows about this product, from hand-written knowledge and from the schema of the resource.

What it says about fields cannot go stale: descriptions, defaults and bounds are read from the schema. No torch, no network.
"""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune_contract.plurals import counted
from finetune_operator.api.spec import FineTuneJobSpec

FOLDER = Path(__file__).resolve().parent / "support"
ROWS = FOLDER / "rows.jsonl"
_BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
_MEANING = ("What does {path} do?", "Explain the field {path}.", "I found {path} in a FineTuneJob. What is it?")
_DEFAULT = ("What is the default of {path}?", "Which value does {path} have when I leave it out?", "Must I set {path}?")
_RANGE = ("Which values may {path} take?", "Is there a limit for {path}?", "What is allowed in {path}?")


@dataclass(frozen=True)
class Question:
    """One row: what is asked and what is answered."""

    asked: str
    answered: str


def render_rows() -> str:
    """The whole file, one JSON object a line, in an order that mixes the topics; the same at every call."""
    rows = [*_written_by_hand((FOLDER / "knowledge.txt").read_text()), *_about_fields()]
    random.Random(0).shuffle(rows)
    return "".join(json.dumps(_chat(row)) + "\n" for row in rows)


def _chat(row: Question) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": row.asked}, {"role": "assistant", "content": row.answered}]}


def _written_by_hand(text: str) -> Iterator[Question]:
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        answer = next((line[2:] for line in lines if line.startswith("! ")), None)
        for line in lines:
            if line.startswith("? ") and answer is not None:
                yield Question(line[2:], answer)


def _about_fields() -> Iterator[Question]:
    """Three questions a field: meaning, default, range; their wording changes from field to field."""
    for index, (path, field) in enumerate(_leaves(FineTuneJobSpec, "spec")):
        yield Question(_MEANING[index % 3].format(path=path), _meaning(field))
        yield Question(_DEFAULT[index % 3].format(path=path), _default(path, field))
        allowed = _allowed(field)
        if allowed is not None:
            yield Question(_RANGE[index % 3].format(path=path), f"{path} may be {allowed}.")


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for field in model.model_fields.values():
        path = f"{prefix}.{field.alias}"
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _leaves(section, path)
        else:
            yield path, field


def _meaning(field: FieldInfo) -> str:
    default = "It must be set." if field.is_required() else f"Default: {_written(field.default)}."
    return f"{field.description} {default}"


def _default(path: str, field: FieldInfo) -> str:
    if field.is_required():
        return f"{path} has no default: it must be set. {field.description}"
    if field.default is None:
        return f"{path} may be left out and is then absent. {field.description}"
    return f"{path} may be left out; it is then {_written(field.default)}."


def _written(value: object) -> str:
    """As people write it in YAML."""
    if value is None:
        return "absent"
    return json.dumps(value).replace('"', "")


def _allowed(field: FieldInfo) -> str | None:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return "one of " + ", ".join(choices)
    if field.annotation is bool:
        return "true or false"
    bounds = [f"{words} {getattr(rule, name):g}" for rule in field.metadata for name, words in _BOUNDS.items() if hasattr(rule, name)]
    if not bounds:
        return None
    types = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not NoneType]
    number = "a whole number" if types == [int] else "a number"
    return f"{number}, {' and '.join(bounds)}"


def main() -> int:
    ROWS.write_text(render_rows())
    sys.stdout.write(f"{ROWS}: {counted(render_rows().count(chr(10)), 'row')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
