"""An error in a user's YAML: which field, what came, what was wanted, what to do."""

_MAX_PATH_CHARS, _MAX_CHARS = 300, 1500


class SpecError(Exception):
    """`path` as in spec.training.learningRate ("" = the whole document); `line` is 1-based, if known. Both are safe to print."""

    def __init__(self, path: str, message: str, *, line: int | None = None) -> None:
        path, message = printable(path, _MAX_PATH_CHARS), printable(message, _MAX_CHARS)
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message
        self.line = line

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpecError) and (self.path, self.message) == (other.path, other.message)

    def __hash__(self) -> int:
        return hash((self.path, self.message))


def printable(text: str, max_chars: int = _MAX_CHARS) -> str:
    """For a terminal: one line, control and invisible characters escaped, the middle of a long text left out."""
    if len(text) > max_chars:
        text = f"{text[: max_chars * 2 // 3]} .. {text[-max_chars // 3 :]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
