"""Refuses code that is too big to read: the budgets of the house style as one command that prints every offender.

It does not format, lint or check types; ruff and mypy do. It never imports what it reads.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("operator", "trainer-image", "tests", "e2e", "examples", ".ci")
TEXT_FOLDERS = (*CODE_FOLDERS, "docs", "helm", "crds")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".tpl", ".json", ".txt", ".sh", ".c", ".go", ".cfg"}
TEXT_NAMES = {"Makefile", "Dockerfile", "README.md", "CHANGELOG.md", "pyproject.toml"}
GENERATED_OR_CACHED = {"__pycache__", "node_modules", "build", "dist"}

MAX_FILE_LINES = 300
MAX_TEST_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
MAX_NESTING = 4
MAX_TABLE_ROWS = 25

# "path:function" -> lines allowed. Only the recipe's loop may stand here, with at most 120.
LONGER_FUNCTIONS: dict[str, int] = {"trainer-image/finetune_trainer/loop.py:train": 100}

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Offence:
    """One budget that one place breaks."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def offences(root: Path = ROOT) -> tuple[Offence, ...]:
    """Every offence under `root`, in the order of the paths."""
    found = [offence for path in _files(root, TEXT_FOLDERS) for offence in _not_ascii(path, path.relative_to(root).as_posix())]
    used: set[str] = set()
    for path in _files(root, CODE_FOLDERS):
        if path.suffix == ".py":
            found += judge_source(path.read_text(), path.relative_to(root).as_posix(), used)
    idle = sorted(set(LONGER_FUNCTIONS) - used)
    found += [Offence(path=name, line=1, what="listed as a longer function, but it is short or gone") for name in idle]
    return tuple(found)


def judge_source(source: str, path: str, used_exceptions: set[str]) -> list[Offence]:
    """Offences of one Python file; names of the exceptions it needs are added to `used_exceptions`."""
    is_test = Path(path).name.startswith(("test_", "conftest"))
    num_lines, limit = source.count("\n"), MAX_TEST_FILE_LINES if is_test else MAX_FILE_LINES
    found = []
    if num_lines > limit:
        found.append(Offence(path=path, line=1, what=f"file of {num_lines} lines, at most {limit}"))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _Function):
            found += [Offence(path=path, line=node.lineno, what=what) for what in _judge_function(node, path, used_exceptions)]
    return found


def _judge_function(function: _Function, path: str, used_exceptions: set[str]) -> Iterator[str]:
    name, num_lines = function.name, (function.end_lineno or function.lineno) - function.lineno + 1
    key, limit = f"{path}:{name}", MAX_FUNCTION_LINES
    if num_lines > limit and key in LONGER_FUNCTIONS:
        used_exceptions.add(key)
        limit = LONGER_FUNCTIONS[key]
    if num_lines > limit:
        yield f"{name} has {num_lines} lines, at most {limit}"
    num_parameters = _num_parameters(function.args)
    if num_parameters > MAX_PARAMETERS and not path.startswith(("tests/", "e2e/test_")):
        yield f"{name} has {num_parameters} parameters, at most {MAX_PARAMETERS}"
    depth = _depth(function.body)
    if depth > MAX_NESTING:
        yield f"{name} nests {depth} deep, at most {MAX_NESTING}"
    if function.returns is None and not path.startswith("tests/"):
        yield f"{name} has no return annotation"
    for decorator in function.decorator_list:
        num_rows = _num_table_rows(decorator)
        if num_rows > MAX_TABLE_ROWS:
            yield f"{name} is a table of {num_rows} rows, at most {MAX_TABLE_ROWS}: split it by question"


def _num_parameters(arguments: ast.arguments) -> int:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([argument for argument in named if argument.arg not in {"self", "cls"}])


def _depth(body: list[ast.stmt]) -> int:
    """Deepest nesting of blocks; `elif` is no deeper than its `if`, and an inner function is judged by itself."""
    return max((_depth_of(statement) for statement in body), default=0)


def _depth_of(statement: ast.stmt) -> int:
    if not isinstance(statement, _BLOCKS):
        return 0
    if isinstance(statement, ast.If):
        chained = len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If)
        inside, beside = [statement.body, [] if chained else statement.orelse], statement.orelse if chained else []
        return max(1 + max(_depth(body) for body in inside), _depth(beside))
    if isinstance(statement, ast.Match):
        return 1 + max(_depth(case.body) for case in statement.cases)
    bodies = [statement.body]
    if not isinstance(statement, ast.With | ast.AsyncWith):
        bodies.append(statement.orelse)
    if isinstance(statement, ast.Try | ast.TryStar):
        bodies += [statement.finalbody, *(handler.body for handler in statement.handlers)]
    return 1 + max(_depth(body) for body in bodies)


def _num_table_rows(decorator: ast.expr) -> int:
    if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("mark.parametrize"):
        return 0
    return max((len(node.elts) for node in decorator.args[1:] if isinstance(node, ast.List | ast.Tuple)), default=0)


def _not_ascii(path: Path, name: str) -> Iterator[Offence]:
    text = path.read_bytes()
    if text.isascii():
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.isascii():
            yield Offence(path=name, line=number, what="not ASCII")


def _files(root: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            is_text = path.suffix in TEXT_SUFFIXES or path.name in TEXT_NAMES
            if is_text and path.is_file() and not GENERATED_OR_CACHED & set(path.relative_to(root).parts):
                yield path
    if folders is TEXT_FOLDERS:
        yield from sorted(path for path in root.iterdir() if path.is_file() and path.name in TEXT_NAMES)


def main() -> int:
    """Print every offence; 1 if there is one."""
    found = offences()
    for offence in found:
        sys.stdout.write(f"{offence}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
