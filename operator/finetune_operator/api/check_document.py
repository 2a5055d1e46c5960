"""One YAML document -> the lines that a user reads about it: `file:line: field: what came, what was wanted`. It prints nothing."""

from collections.abc import Iterator
from pathlib import Path

from finetune_operator.api.rules import validate
from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.yaml_reader import Document, read_documents, render_path


class FileRefused(Exception):
    """The file gives no documents; the message is the line for the user."""


def read_file(file: Path) -> tuple[Document, ...]:
    """At least one document. Raises FileRefused."""
    try:
        documents = read_documents(file.read_text())
    except OSError as error:
        raise FileRefused(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileRefused(f"{file}: is not UTF-8 text; wanted YAML") from error
    except SpecError as error:
        raise FileRefused(render_error(file, error, error.line)) from error
    if not documents:
        raise FileRefused(f"{file}: holds no YAML document; wanted a FineTuneJob")
    return documents


def error_lines(file: Path, document: Document, *, is_local: bool) -> Iterator[str]:
    """One line for each error, with the line of the field or of its nearest parent."""
    for error in validate(document.value, is_local=is_local):
        yield render_error(file, error, _line_of(document, error.path))


def render_error(file: Path, error: SpecError, line: int | None) -> str:
    return f"{file}:{line}: {error}" if line else f"{file}: {error}"


def _line_of(document: Document, path: str) -> int | None:
    known = {render_path(key): line for key, line in document.lines.items()}
    while path and path not in known:
        path = path.rpartition(".")[0]
    return known.get(path)
