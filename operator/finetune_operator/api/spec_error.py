"""An error in a user's YAML: which field, what came, what was wanted, what to do."""


class SpecError(Exception):
    """`path` as in spec.training.learningRate ("" = the whole document); `line` is 1-based, if known."""

    def __init__(self, path: str, message: str, *, line: int | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message
        self.line = line

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpecError) and (self.path, self.message) == (other.path, other.message)

    def __hash__(self) -> int:
        return hash((self.path, self.message))
