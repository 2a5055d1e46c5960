"""One YAML document -> the lines that a user reads about it: `file:line: field: what came, what was wanted`. It prints nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_operator.api.rules import parse_job, validate
from finetune_operator.api.spec_error import SpecError, printable
from finetune_operator.api.yaml_reader import MAX_BYTES, Document, read_documents, render_path


class FileRefused(Exception):
    """The file gives no documents; the message is the line for the user."""


def read_file(file: Path) -> tuple[Document, ...]:
    """At least one document; `-` is stdin. Raises FileRefused."""
    name = shown_name(file)
    try:
        documents = read_documents(_read_bytes(file).decode())
    except OSError as error:
        raise FileRefused(f"{name}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or a name that no file can have
        raise FileRefused(f"{name}: is not UTF-8 text; wanted YAML") from error
    except SpecError as error:
        raise FileRefused(render_error(file, error, error.line)) from error
    if not documents:
        raise FileRefused(f"{name}: holds no YAML document; wanted a FineTuneJob")
    return documents


def _read_bytes(file: Path) -> bytes:
    """At most one byte more than may be there: what is endless is not read to its end."""
    if str(file) == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def error_lines(file: Path, document: Document, *, is_local: bool) -> Iterator[str]:
    """One line for each error, with the line of the field or of its nearest parent."""
    errors = validate(document.value, is_local=is_local)
    for error in errors or _trial_errors(document.value):
        yield render_error(file, error, _line_of(document, error.path))


def _trial_errors(value: Any) -> tuple[SpecError, ...]:
    text = parse_job(value).spec.training.chat_template
    if text is None:
        return ()
    from finetune_operator.api.template_trial import try_template

    fault = try_template(text)
    return () if fault is None else (SpecError("spec.training.chatTemplate", fault),)


def render_error(file: Path, error: SpecError, line: int | None) -> str:
    return f"{shown_name(file)}:{line}: {error}" if line else f"{shown_name(file)}: {error}"


def shown_name(file: Path) -> str:
    return "stdin" if str(file) == "-" else printable(str(file), 300)


def _line_of(document: Document, path: str) -> int | None:
    known = {printable(render_path(key), 300): line for key, line in document.lines.items()}
    while path and path not in known:
        path = path.rpartition(".")[0]
    return known.get(path)
