"""`finetune`: validate a job offline, show its rows, run it on this machine, print the CRD.

Heavy imports happen in the command that needs them.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_operator.api.check_document import FileRefused, error_lines, read_file, shown_name
from finetune_operator.api.job import GROUP, KIND
from finetune_operator.api.rules import parse_job, warnings
from finetune_operator.api.spec_error import printable


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 0 good, 1 failed or invalid, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="finetune", description="One YAML in, one LoRA adapter out.")
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("validate", help="check jobs offline, with the rules of the cluster")
    checked.add_argument("files", nargs="+", type=Path, metavar="FILE", help="YAML files; - is stdin")
    checked.add_argument("--local", action="store_true", help="check for `finetune run`: file:// places are allowed")
    commands.add_parser("crd", help="print the CustomResourceDefinition")
    run = commands.add_parser("run", help="train on this machine")
    rows = commands.add_parser("rows", help="show the rows of a job as the model sees them, with the tokens that carry loss marked")
    chosen_command = (arguments if arguments is not None else sys.argv[1:])[:1]
    if chosen_command == ["run"]:
        from finetune_operator.local.run import add_arguments

        add_arguments(run)
    if chosen_command == ["rows"]:
        from finetune_operator.local.rows import add_arguments

        add_arguments(rows)
    chosen = parser.parse_args(arguments)
    if chosen.command == "validate":
        return validate_files(chosen.files, is_local=chosen.local)
    if chosen.command == "crd":
        from finetune_operator.api.crd import render_crd

        sys.stdout.write(render_crd())
        return 0
    if chosen.command == "rows":
        from finetune_operator.local.rows import rows_from_arguments

        return rows_from_arguments(chosen, os.environ)
    from finetune_operator.local.run import run_from_arguments

    return run_from_arguments(chosen)


def validate_files(files: list[Path], *, is_local: bool) -> int:
    """Print one line for each error and warning; 0 if there is no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no terminal's encoding ends the command
    is_good = True
    for file in files:
        lines = list(check_file(file, is_local=is_local))
        is_good &= not any(is_error for is_error, _ in lines)
        for is_error, line in lines:
            (sys.stderr if is_error else sys.stdout).write(f"{line}\n")
    return 0 if is_good else 1


def check_file(file: Path, *, is_local: bool) -> Iterator[tuple[bool, str]]:
    """(is an error, line for the user) for everything that is to be said of one file; `-` is stdin."""
    try:
        documents = read_file(file)
    except FileRefused as refusal:
        yield True, str(refusal)
        return
    name = shown_name(file)
    for document in documents:
        if len(documents) > 1 and _is_of_another_kind(document.value):
            yield False, f"{name}: {printable(document.value['kind'], 100)} is not checked"
            continue
        errors = tuple(error_lines(file, document, is_local=is_local))
        yield from ((True, line) for line in errors)
        if not errors:
            job = parse_job(document.value)
            yield from ((False, f"{name}: warning: {warning}") for warning in warnings(job))
            yield False, f"{name}: FineTuneJob {job.metadata.name} is valid"


def _is_of_another_kind(document: Any) -> bool:
    """What stands beside a job in one file, such as the ConfigMap of its rows."""
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        return False
    return document["kind"] != KIND and not str(document.get("apiVersion")).startswith(f"{GROUP}/")
