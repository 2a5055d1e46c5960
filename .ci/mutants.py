"""Breaks one place of a package at a time and says which breakages no test notices: `python .ci/mutants.py kube --number 30`.

Which places is decided by the seed. Every mutant lives in a copy of the repository in a temporary folder; nothing here is changed.
Left out is what no test should pin down: words of the log, annotations, and how large exactly a bound is (named ones, and slices).
"""

import argparse
import ast
import copy
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("operator", "trainer-image", "tests", "crds", "helm", "docs", "examples", ".ci", "pyproject.toml", "README.md")
# The tests that a package has to answer to.
TESTS = {
    "decide": ("tests/decide", "tests/stories"),
    "coordinator": ("tests/coordinator", "tests/edge/test_operator.py"),
    "kube": ("tests/kube", "tests/edge/test_authenticate.py", "tests/edge/test_operator.py"),
    "edge": ("tests/edge",),
    "reconcile": ("tests/stories", "tests/kube/test_membership.py"),
    "api": ("tests/api",),
}
_SLOW = ("_memory.py", "_herd.py", "_chaos.py")  # they ask about seconds and bytes
_IMPORTED = ("aiohttp.web", "cryptography.x509", "hypothesis", "kopf", "prometheus_client", "pydantic", "yaml")  # once for all runs
_TIMES_AS_LONG, _SECONDS_MORE = 3.0, 20.0  # than the tests take on whole code: a mutant that hangs is noticed, too

_OTHER_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER_SIGN: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
_OTHER_NAME = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, kw_only=True, order=True)
class Mutant:
    """The source of `path` with one node replaced."""

    path: str
    line: int
    column: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def mutants_of(source: str, path: str) -> list[Mutant]:
    """Every mutant of one file, in the order of the text."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found, tree = [], ast.parse(source)
    conditions = {id(node.test) for node in ast.walk(tree) if isinstance(node, ast.If | ast.While | ast.IfExp)}
    for node in _mutable(tree):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        for new in _changed(node, is_condition=id(node) in conditions):
            words = f"({new})" if isinstance(node, ast.expr) else new
            what = f"{' '.join(source[begin:end].split())[:90]} -> {new[:90]}"
            mutated = source[:begin] + words + source[end:]
            found.append(Mutant(path=path, line=node.lineno, column=node.col_offset, what=what, source=mutated))
    return sorted(found)


def _mutable(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Parts that mean something when the program runs."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params", "format_spec"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_left_out(child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            if not isinstance(child, ast.JoinedStr):
                yield from _mutable(child)


def _is_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.Slice):
        return True
    if isinstance(node, ast.Assign) and node.col_offset == 0:
        return all(name.isupper() for target in node.targets for name in ast.unparse(target).replace(",", " ").split())
    if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, int | float) and node.value.value not in {0, 1}
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return is_call and ast.unparse(node).startswith(("log.", "logging."))


def _changed(node: ast.expr | ast.stmt, *, is_condition: bool) -> Iterator[str]:
    """Texts that may stand for the node."""
    if is_condition and isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
        yield f"not ({ast.unparse(node)})"
    if isinstance(node, ast.expr):
        yield from (ast.unparse(new) for new in _other_expressions(node))
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"
    elif _is_act(node):
        yield "pass"


def _is_act(node: ast.stmt) -> bool:
    """Left out, it leaves no name without a value."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    return isinstance(node, ast.AugAssign | ast.Delete | ast.Continue | ast.Break)


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[index] = _OTHER_COMPARISON[type(operator)]()
            yield new
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(op=ast.Or() if isinstance(node.op, ast.And) else ast.And(), values=node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _OTHER_SIGN:
        yield ast.BinOp(left=node.left, op=_OTHER_SIGN[type(node.op)](), right=node.right)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OTHER_NAME:
        yield ast.Call(func=ast.Name(id=_OTHER_NAME[node.func.id]), args=node.args, keywords=node.keywords)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node.value)


def _other_constants(value: object) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(value=not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value=value + 1)
        yield ast.Constant(value=value - 1)


class Copy:
    """A repository to break, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
            elif source.exists():
                shutil.copy(source, folder / name)

    def asked(self, path: str, tests: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Files of tests: those that name the module of `path`, for they know best, and the others."""
        found = [file for test in tests for file in sorted((self._folder / test).rglob("test_*.py")) or [self._folder / test]]
        names = [str(file.relative_to(self._folder)) for file in found if not file.name.endswith(_SLOW)]
        module = path.removeprefix("operator/").removesuffix(".py").replace("/", ".")
        near = [name for name in names if module in (self._folder / name).read_text()]
        return near, [name for name in names if name not in near]

    def passes(self, tests: list[str], seconds: float | None) -> bool:
        """Whether no test fails; a run that hangs fails."""
        run = multiprocessing.get_context("fork").Process(target=_run, args=(self._folder, tests))
        run.start()
        run.join(seconds)
        if run.exitcode is None and run.pid is not None:
            os.killpg(run.pid, signal.SIGKILL)
            run.join()
        return run.exitcode == 0

    def survives(self, mutant: Mutant, tests: tuple[str, ...], seconds: float | None) -> bool:
        whole = (self._folder / mutant.path).read_text()
        self._write(mutant.path, mutant.source)
        try:
            return all(self.passes(part, seconds) for part in self.asked(mutant.path, tests) if part)
        finally:
            self._write(mutant.path, whole)

    def _write(self, path: str, source: str) -> None:
        """What was compiled before is told from it by second and size alone, so it goes."""
        file = self._folder / path
        file.write_text(source)
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
            compiled.unlink()


def _run(folder: Path, tests: list[str]) -> None:
    """In a process of its own, which has what we imported."""
    os.setsid()
    os.chdir(folder)
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(sink, stream)
    paths = [str(folder / name) for name in (".", "operator", "trainer-image", ".ci")]
    sys.path[:0], os.environ["PYTHONPATH"], sys.dont_write_bytecode = paths, os.pathsep.join(paths), False
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))


def _chosen(package: str, number: int, seed: int) -> list[Mutant]:
    files = sorted((ROOT / "operator" / "finetune_operator" / package).rglob("*.py"))
    every = [mutant for file in files for mutant in mutants_of(file.read_text(), file.relative_to(ROOT).as_posix())]
    return random.Random(seed).sample(every, min(number, len(every)))


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> int:
    """Print each mutant with its fate; 1 if fewer than the wanted share was killed."""
    parser = argparse.ArgumentParser(description="Mutants of a package and which of them no test kills.")
    parser.add_argument("package", choices=sorted(TESTS))
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.0, help="fail below this share of killed ones")
    arguments = parser.parse_args()
    mutants = _chosen(arguments.package, arguments.number, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copied, tests = Copy(Path(folder)), TESTS[arguments.package]
        for name in _IMPORTED:
            importlib.import_module(name)
        began = time.monotonic()
        if not copied.passes(copied.asked("", tests)[0], None):
            _say("the tests fail without a mutant")
            return 2
        seconds = (time.monotonic() - began) * _TIMES_AS_LONG + _SECONDS_MORE
        num_killed = 0
        for mutant in mutants:
            survived = copied.survives(mutant, tests, seconds)
            num_killed += not survived
            _say(f"{'SURVIVED' if survived else 'killed  '} {mutant}")
    _say(f"{arguments.package}: {num_killed} of {len(mutants)} mutants killed, seed {arguments.seed}")
    return 1 if num_killed < arguments.share * len(mutants) else 0


if __name__ == "__main__":
    sys.exit(main())
