"""What is said of the rows of a job as tokens: the notes of single rows, and the events that they become before the first step."""

from collections.abc import Iterable, Iterator
from datetime import date

from finetune_contract.plurals import counted, verb
from finetune_contract.run_order import WorkerWarning
from finetune_contract.values import Value

OPEN_TURN = "a trained turn ends in no special token"
_SHOWS_DATE = "the chat template shows a date"
_UNREAD_KEY = "messages have a key that nothing reads"
ANSWER_CHANGED = "an answer is not shown as it stands in the row"
NULL_ARGUMENTS = "arguments of a call that are null are left out"
_MAX_KEY_CHARS = 60
_REASONS = {
    OPEN_TURN: "EndOfTurnNotTrained",
    _SHOWS_DATE: "TemplateShowsDate",
    _UNREAD_KEY: "MessageKeysUnused",
    ANSWER_CHANGED: "RowsChanged",
    NULL_ARGUMENTS: "RowsChanged",
}
_ADVICE = {
    OPEN_TURN: "the model does not learn to stop there; give a chat template that closes every answer with the end-of-turn token",
    _SHOWS_DATE: "every member and every restart uses the day of the job's creation; give a template without a date to avoid it",
    _UNREAD_KEY: "remove the key, or rename it to one that chat templates read",
    ANSWER_CHANGED: "the chat template omits or changes a part, such as the text before </think>; give one that shows answers unchanged",
    NULL_ARGUMENTS: "tables fill absent arguments with null; to keep null, write arguments as a string of JSON",
}


MAX_NOTES = 20


class Note(Value):
    """The same note of `count` rows, `first` the number of the first."""

    text: str
    count: int
    first: int


def unread_key(key: str) -> str:
    shown = key.encode("ascii", "backslashreplace").decode()
    return f"{_UNREAD_KEY}: {shown[:_MAX_KEY_CHARS]}"


def shows_date(day: date) -> str:
    return f"{_SHOWS_DATE}: {day.isoformat()}"


def _rows(note: Note) -> str:
    return f"row {note.first}" if note.count == 1 else f"row {note.first} and {note.count - 1} more"


def note_events(notes: Iterable[Note], *, field: str, num_tokens: int, num_targets: int) -> Iterator[WorkerWarning]:
    """One event for each note, after the one that says how much is trained and whether every answer ends."""
    told = tuple(notes)
    is_open = next((note for note in told if note.text == OPEN_TURN), None)
    ends = "yes" if is_open is None else f"no ({_rows(is_open)})"
    loss = f"{num_targets} of {counted(num_tokens, 'token')} {verb(num_targets, 'carries', 'carry')} loss"
    share = 100 * num_targets / max(num_tokens, 1)
    message = f"{field}: {loss} ({share:.1f} %); end of turn trained: {ends}"
    yield WorkerWarning(reason="RowsTokenised", message=message)
    for note in told:
        kind = note.text.partition(": ")[0]
        if kind in _REASONS:
            message = f"{field}: {_rows(note)}: {note.text}; {_ADVICE[kind]}"
            yield WorkerWarning(reason=_REASONS[kind], message=message)
