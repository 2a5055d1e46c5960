"""The shape of the code: who imports whom, how big things are, and what never stands in a file."""

import re
import subprocess
import sys
from pathlib import Path

import budgets
import import_graph
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Split, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a package registry": re.compile(
        "|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "proxy\\." + r"golang\.org", "npm" + r"js\.org", "crates" + r"\.io/api"])
    ),
    "a path of one machine": re.compile("/wo" + "rk/(main|shared)|/ro" + r"ot/"),
}


def test_no_budget_is_exceeded() -> None:
    assert [str(offence) for offence in budgets.offences()] == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = 1\n" * 301, "file of 301 lines"),
        ("def f() -> None:\n" + "    pass\n" * 60, "f has 61 lines"),
        ("def f(a, b, c, d, e, f, g, h, i) -> None: ...\n", "f has 9 parameters"),
        ("def f(): ...\n", "f has no return annotation"),
        ("def f() -> None:\n if a:\n  for b in c:\n   with d:\n    while e:\n     if g:\n      pass\n", "f nests 5 deep"),
        ("@pytest.mark.parametrize('x', [" + "1," * 26 + "])\ndef test(x) -> None: ...\n", "table of 26 rows"),
    ],
    ids=["file", "function", "parameters", "annotation", "nesting", "table"],
)
def test_each_budget_is_enforced(source: str, what: str) -> None:
    assert [offence.what for offence in budgets.judge_source(source, "operator/x.py", set()) if what in offence.what]


def test_an_elif_is_not_deeper_than_its_if() -> None:
    source = "def f() -> None:\n" + "    if a:\n        pass\n" + "    elif b:\n        pass\n" * 6
    assert budgets.judge_source(source, "operator/x.py", set()) == []


def test_no_import_is_against_the_arrows() -> None:
    assert import_graph.against_the_arrows() == ()


def test_an_import_against_the_arrows_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "operator" / "finetune_operator" / "decide" / "rule.py"
    module.parent.mkdir(parents=True)
    module.write_text("from finetune_operator.kube import client\n")
    assert import_graph.against_the_arrows(tmp_path) == (("finetune_operator.decide", "finetune_operator.kube"),)


@pytest.mark.parametrize(
    "module", ["finetune_operator", "finetune_operator.cli", "finetune_operator.api.job", "finetune_agent.member.agent"]
)
def test_it_starts_without_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'peft', 'kubernetes'}"
    program = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    texts = {path: path.read_text(errors="replace") for path in _project_files()}
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path, text in texts.items() if (match := FORBIDDEN[what].search(text))]
    assert found == []


def _project_files() -> list[Path]:
    answer = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in answer.stdout.splitlines() if (ROOT / name).is_file() and not name.endswith("go.sum")]
