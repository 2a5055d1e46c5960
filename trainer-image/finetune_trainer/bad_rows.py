"""All bad rows of a data set in one message: how many, and the first ten with their words."""

from collections.abc import Callable

from finetune_contract.failures import MAX_MESSAGE_CHARS, FailureClass, TrainingError
from finetune_contract.plurals import counted
from finetune_trainer.rows import RowError

MAX_BAD_ROWS = 1000  # then the reading stops: a file of another kind is not read to its end
_NUM_SHOWN = 10


class BadRows:
    """`name_of` calls a row by its number."""

    def __init__(self, field: str, name_of: Callable[[int], str]) -> None:
        self._field, self._name_of = field, name_of
        self._shown: list[RowError] = []
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, error: RowError, num_rows: int) -> None:
        """Raises TrainingError when there are so many that reading on is of no use. `num_rows` were read, this one included."""
        self._count += 1
        if len(self._shown) < _NUM_SHOWN:
            self._shown.append(error)
        if self._count >= MAX_BAD_ROWS:
            raise self._error(f"{self._count} of the first {counted(num_rows, 'row')} are bad; reading stopped there")

    def check(self, num_rows: int) -> None:
        """Raises TrainingError when there are any, out of this number of rows."""
        if self._count:
            raise self._error(f"{self._count} of {counted(num_rows, 'row')} are bad")

    def _error(self, what: str) -> TrainingError:
        by_problem: dict[str, list[str]] = {}
        for error in self._shown:
            by_problem.setdefault(error.problem, []).append(self._name_of(error.number))
        head = "" if self._count == 1 else f"{what}. " if self._count <= _NUM_SHOWN else f"{what}. The first {_NUM_SHOWN}: "
        room = (MAX_MESSAGE_CHARS - len(self._field) - len(head)) // len(by_problem) - 4
        told = "; ".join(_fit(f"{_names(names)}: {problem}", room) for problem, names in by_problem.items())
        return TrainingError(FailureClass.USER_ERROR, f"{self._field}: {head}{told}")


def _names(names: list[str]) -> str:
    """`row 1`, or `rows 1, 2, 5` of one file."""
    if len(names) == 1 or not all(name.startswith("row ") for name in names):
        return ", ".join(names)
    return f"rows {', '.join(name.removeprefix('row ') for name in names)}"


def _fit(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."
