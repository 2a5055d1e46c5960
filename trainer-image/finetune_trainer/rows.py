"""The rows of a data set, one at a time: chat messages, prompt/completion or text. Errors name a row by number and show nothing of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from pathlib import Path
from typing import Any, Literal

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.columns import COLUMNS_OF, Columns, WrongColumns, as_messages, looks_like
from finetune_trainer.file_kinds import UnreadableFile
from finetune_trainer.json_text import BadRow, check_value, shown_name
from finetune_trainer.parse_row import parse_row
from finetune_trainer.records import MAX_ROW_BYTES, Record, read_records

Form = Literal["messages", "prompt-completion", "text"]
_FIELDS: dict[Form, tuple[str, ...]] = {"messages": ("messages",), "prompt-completion": ("prompt", "completion"), "text": ("text",)}
_USED = {"messages": frozenset({"messages", "tools"}), "prompt-completion": frozenset({"prompt", "completion", "tools"})}
_ALL_COLUMNS = frozenset({"tools"}.union(*_FIELDS.values(), *COLUMNS_OF.values()))
_MAX_FIRST_ROWS = 1000  # that are looked at to find the form
_MAX_NAMES = 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, in the form of its file; `number` is its line from 1, counted on over the files of a data set."""

    number: int
    content: dict[str, Any]


class RowError(TrainingError):
    """Something about one row, in the user's words."""

    def __init__(self, field: str, number: int, problem: str) -> None:
        super().__init__(FailureClass.USER_ERROR, f"{field}: row {number}: {problem}")
        self.number, self.problem = number, problem


@dataclass(kw_only=True)
class Rows:
    """The rows of all files, read anew at each iteration; `field` is the place in the resource that names the data set.

    What is known of the files grows while they are read: `bases[i]` is the number of the last row before file i, `share` how much
    of all bytes is read, `unused` how many rows have a column that no training uses.
    """

    field: str
    form: Form
    files: tuple[Path, ...]
    columns: Columns | None = None
    bases: list[int] = made(default_factory=lambda: [0])
    share: float = 0.0
    unused: dict[str, int] = made(default_factory=dict)
    has_form: bool = True  # None of the first rows has one: then each row is bad

    def __iter__(self) -> Iterator[Row | RowError | None]:
        return self.after(0)

    def after(self, last: int) -> Iterator[Row | RowError | None]:
        """Rows with a number greater than `last`, in order, good and bad ones; None says that the reading goes on."""
        for number, record in self._records():
            if record is None or number <= last:
                yield None
                continue
            try:
                content = self._parse(record)
                if not self.has_form:
                    _form_of(content, self.columns)
                row = Row(number=number, content=_checked(content, self.form, self.columns))
            except BadRow as error:
                yield RowError(self.field, number, str(error))
            else:
                self._note_unused(content)
                yield row

    def name_of(self, number: int) -> str:
        """How a message calls a row."""
        index = max(place for place, base in enumerate(self.bases) if base < max(number, 1))
        row = f"row {number - self.bases[index]}"
        return row if len(self.files) == 1 else f"{self.files[index].name} {row}"

    def first_form(self) -> Form | None:
        """That of the first row which has one; None when the first rows have none. Raises TrainingError for a file without rows."""
        is_empty = True
        for _, record in self._records(_MAX_FIRST_ROWS):
            if record is None:
                continue
            is_empty = False
            try:
                return _form_of(self._parse(record), self.columns)
            except BadRow:
                continue
        if is_empty:
            raise TrainingError(FailureClass.USER_ERROR, f"{self.field}: the file has no rows; wanted one JSON object a line")
        return None

    def _records(self, limit: int | None = None) -> Iterator[tuple[int, Record | None]]:
        """(number, record) of all files; None for what is no row."""
        self.bases[:] = [0]
        sizes = [max(file.stat().st_size, 1) for file in self.files]
        for index, file in enumerate(self.files):
            number = base = self.bases[index]
            try:
                for record in read_records(file, _ALL_COLUMNS):
                    number = base + record.number
                    self.share = (sum(sizes[:index]) + record.share * sizes[index]) / sum(sizes)
                    yield number, record if record.content != b"" else None
                    if limit is not None and number >= limit:
                        return
            except (UnreadableFile, OSError) as error:
                words = str(error) if isinstance(error, UnreadableFile) else f"the file cannot be read ({error.strerror})"
                name = f"{file.name}: " if len(self.files) > 1 else ""
                raise TrainingError(FailureClass.USER_ERROR, f"{self.field}: {name}{words}") from None
            self.bases.append(number)

    def _parse(self, record: Record) -> dict[str, Any]:
        content = record.content
        if isinstance(content, dict):
            check_value(content, has_surrogates=False)
        elif len(content) > MAX_ROW_BYTES:
            raise BadRow(f"is longer than {MAX_ROW_BYTES >> 20} MiB; split it, or check that the file has one row a line")
        else:
            content = parse_row(content)
        return {name: value for name, value in content.items() if value is not None}  # writers of tables say null for "is not there"

    def _note_unused(self, content: dict[str, Any]) -> None:
        used = _USED.get(self.form, frozenset(_FIELDS[self.form])) if self.columns is None else COLUMNS_OF[self.columns]
        for name in content.keys() - used:
            if name in self.unused or len(self.unused) < _MAX_NAMES:
                self.unused[name] = self.unused.get(name, 0) + 1


def read_rows(files: Path | Sequence[Path], *, field: str, form: Literal["auto"] | Form, columns: Columns | None = None) -> Rows:
    """The rows of these files, in this order. The form `auto` is that of the first row. Raises TrainingError in the user's words."""
    paths = (files,) if isinstance(files, Path) else tuple(files)
    asked = None if form == "auto" else form
    if columns is not None:
        asked = "messages"
    found = Rows(field=field, form=asked or "messages", files=paths, columns=columns).first_form()
    return Rows(
        field=field, form=asked or found or "messages", files=paths, columns=columns, has_form=asked is not None or found is not None
    )


def _form_of(content: dict[str, Any], columns: Columns | None) -> Form:
    if columns is not None:
        return "messages"
    for form, names in _FIELDS.items():
        if all(name in content for name in names):
            return form
    raise BadRow(f"{_has(content)}; wanted messages, or prompt and completion, or text{_way(content)}")


def _way(content: dict[str, Any]) -> str:
    preset = looks_like(set(content))
    return "" if preset is None else f"; for rows of this form set spec.dataset.columns: {preset}"


def _checked(content: dict[str, Any], form: Form, columns: Columns | None) -> dict[str, Any]:
    """The row in its form; what its fields hold is the encoder's to check. Raises BadRow."""
    if columns is not None:
        try:
            content = as_messages(content, columns)
        except WrongColumns as error:
            raise BadRow(f"{error} (spec.dataset.columns: {columns})") from None
    missing = [name for name in _FIELDS[form] if name not in content]
    if missing:
        others = f"the rows of this file are of the form {form}"
        raise BadRow(f"has no {' and no '.join(missing)}: {_has(content)}; {others}{_way(content)}")
    return content


def _has(content: dict[str, Any]) -> str:
    names = sorted(content)
    shown = ", ".join(shown_name(name) for name in names[:_MAX_NAMES])
    return f"it has {shown or 'no fields'}{f' and {len(names) - _MAX_NAMES} more' if len(names) > _MAX_NAMES else ''}"
