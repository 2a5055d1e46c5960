"""Reads and checks a JSON Lines file: chat messages, prompt/completion or text. Every error names the row by its line number."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_contract.failures import FailureClass, TrainingError

Form = Literal["messages", "prompt-completion", "text"]
_FIELDS: dict[Form, tuple[str, ...]] = {"messages": ("messages",), "prompt-completion": ("prompt", "completion"), "text": ("text",)}
_SHOWN_CHARS = 60


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the file, in the file's own form; `number` is its line, from 1."""

    number: int
    content: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows of one file; `field` is the place in the resource that names the file."""

    field: str
    form: Form
    rows: tuple[Row, ...]


class RowError(TrainingError):
    """Something about one row, in the user's words."""

    def __init__(self, field: str, number: int, problem: str) -> None:
        super().__init__(FailureClass.USER_ERROR, f"{field}: row {number}: {problem}")


def read_rows(path: Path, *, field: str, form: Literal["auto"] | Form) -> Rows:
    """Parse the whole file. The form `auto` is that of the first row. Raises TrainingError in the user's words."""
    parsed = tuple(_parse(line, field, number) for number, line in enumerate(_lines(path, field), start=1) if line.strip())
    if not parsed:
        raise TrainingError(FailureClass.USER_ERROR, f"{field}: the file has no rows; wanted one JSON object a line")
    chosen = _form_of(parsed[0], field) if form == "auto" else form
    for row in parsed:
        _check(row, field, chosen)
    return Rows(field=field, form=chosen, rows=parsed)


def _lines(path: Path, field: str) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise RowError(field, number, f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def _parse(line: str, field: str, number: int) -> Row:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(field, number, f"not JSON ({error.msg} at column {error.colno}): {_shown(line)}; wanted one object a line") from None
    if not isinstance(content, dict):
        raise RowError(field, number, f"wanted a JSON object, got {_kind(content)}")
    return Row(number=number, content=content)


def _form_of(row: Row, field: str) -> Form:
    for form, names in _FIELDS.items():
        if all(name in row.content for name in names):
            return form
    raise RowError(field, row.number, f"{_has(row)}; wanted messages, or prompt and completion, or text")


def _check(row: Row, field: str, form: Form) -> None:
    missing = [name for name in _FIELDS[form] if name not in row.content]
    if missing:
        raise RowError(field, row.number, f"has no {' and no '.join(missing)}: {_has(row)}; the rows of this file are of the form {form}")


def _has(row: Row) -> str:
    names = ", ".join(sorted(row.content)) or "no fields"
    return f"it has {_shown(names)}"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def _kind(value: object) -> str:
    if isinstance(value, str):
        return f"the string {_shown(json.dumps(value))}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    return "null" if value is None else f"{json.dumps(value)}"
