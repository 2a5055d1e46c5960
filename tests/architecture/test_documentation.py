"""What stands in the code stands in the documentation: the tree, the fields, and every name that the operator says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import MagicMock

import pytest
import yaml
from prometheus_client import CollectorRegistry

from finetune_contract.failures import FailureClass
from finetune_contract.reasons import OTHER_WARNING, STORAGE_REASONS, WARNING_REASONS
from finetune_operator.api.job import LABEL_JOB
from finetune_operator.api.status_words import STATUS_WORDS
from finetune_operator.decide.answers.answer import Phase, Verdict
from finetune_operator.kube.meters import Meters
from finetune_operator.metrics import JobCollector, OperatorMetrics
from finetune_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPERATOR = ROOT / "operator" / "finetune_operator"
SOURCE_FOLDERS = ("operator", "trainer-image")
NOT_OURS = {"build", "dist", "__pycache__"}


def test_the_tree_of_the_readme_is_the_real_tree() -> None:
    assert sorted(_drawn_tree((ROOT / "README.md").read_text())) == sorted(_real_tree())


def test_every_field_of_the_resource_is_documented() -> None:
    page = (DOCS / "reference" / "finetunejob.md").read_text()
    fields = list(_fields())
    assert len(fields) > 100
    assert [path for path in fields if f"`{path}`" not in page] == []


def test_every_field_is_explained_and_no_other() -> None:
    definition = yaml.safe_load((ROOT / "crds" / "finetunejobs.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    explained = {path: words for top in ("spec", "status") for path, words in _descriptions(schema[top], top)}
    assert [path for path, words in explained.items() if not words] == []
    assert [path for path, words in STATUS_WORDS.items() if explained.get(f"status.{path}") != words] == []


def test_every_metric_is_documented_and_no_other() -> None:
    registry = CollectorRegistry()
    OperatorMetrics(registry, version="0")
    Meters(registry)
    of_jobs = JobCollector(jobs=MagicMock(), agents=MagicMock(), clock=MagicMock(), is_leading=lambda: False).collect()
    shown = {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in (*registry.collect(), *of_jobs)}
    assert _first_column("metrics") == shown


def test_every_event_is_documented_and_no_other() -> None:
    modules = [path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert _first_column("events") == {OTHER_WARNING, *(reason for path in modules for reason in _event_reasons(path))}


@pytest.mark.parametrize("page", ["events", "conditions", "metrics", "failures"])
def test_every_name_of_a_reference_page_has_one_row(page: str) -> None:
    tables = (DOCS / "reference" / f"{page}.md").read_text().split("\n## ")
    names = [re.findall(r"^\| (`[^|]+`) \|", table, flags=re.MULTILINE) for table in tables]
    assert any(names)
    assert [name for rows in names for name in set(rows) if rows.count(name) > 1] == []


def test_every_reason_of_a_member_is_one_that_the_operator_takes() -> None:
    """Another one would be shown as MemberWarning: it belongs into finetune_contract.reasons."""
    modules = (ROOT / "trainer-image").rglob("*.py")
    assert {reason for path in modules for reason in _event_reasons(path)} <= WARNING_REASONS | STORAGE_REASONS


def test_every_phase_and_condition_is_documented_and_no_other() -> None:
    types = {*_condition_types(OPERATOR / "decide" / "reporting" / "conditions.py"), *get_args(Verdict.__annotations__["kind"])}
    phases, conditions = (DOCS / "reference" / "conditions.md").read_text().split("## Conditions")
    assert _names(phases) == {phase.value for phase in Phase}
    assert _names(conditions) == types


def test_every_failure_class_is_documented_and_no_other() -> None:
    assert _first_column("failures") == {failure.value for failure in FailureClass}


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "helm").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    index = (DOCS / "index.md").read_text() + (DOCS / "decisions" / "README.md").read_text()
    assert [page.name for page in DOCS.rglob("*.md") if page.name not in index and page.name not in {"index.md", "README.md"}] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture/overview.md"])
def test_every_path_that_a_page_for_contributors_names_is_there(page: str) -> None:
    named = {name for name in re.findall(r"`([\w./-]+)`", (ROOT / page).read_text()) if "/" in name or name.endswith(".py")}
    assert named
    rooms = (ROOT, OPERATOR, ROOT / "trainer-image", ROOT / "trainer-image" / "finetune_agent", ROOT / "trainer-image" / "finetune_trainer")
    assert [name for name in sorted(named) if not any((room / name).exists() for room in rooms)] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))]
)
def test_every_link_leads_to_a_file(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_every_word_stands_in_the_glossary_once() -> None:
    words = [line.split("|")[1].strip() for line in (DOCS / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    words = [word for word in words if word != "word"]
    assert sorted(set(words)) == sorted(words)


def test_the_network_policy_for_members_selects_members_and_lets_them_reach_the_channel() -> None:
    (block,) = re.findall(r"```yaml\n(apiVersion: networking.*?)```", (ROOT / "docs/operations.md").read_text(), flags=re.DOTALL)
    spec = yaml.safe_load(block)["spec"]
    members = {"matchExpressions": [{"key": LABEL_JOB, "operator": "Exists"}]}
    assert spec["podSelector"] == members
    assert spec["ingress"] == [{"from": [{"podSelector": members}]}]
    ports = {port["port"] for rule in spec["egress"] for port in rule.get("ports", [])}
    assert Settings.__dataclass_fields__["channel_port"].default in ports
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}


def _real_tree() -> Iterator[str]:
    """Folders at the top, and our packages with their packages."""
    yield from (f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name not in NOT_OURS and not path.name.startswith("."))
    for folder in SOURCE_FOLDERS:
        for module in (ROOT / folder).rglob("__init__.py"):
            yield f"{module.parent.relative_to(ROOT).as_posix()}/"


def _drawn_tree(readme: str) -> Iterator[str]:
    """Paths of the block after "## Repository": two spaces of indent a level, the path's last part, then words."""
    block = readme.split("## Repository", 1)[1].split("```")[1]
    above: list[str] = []
    for line in block.strip("\n").splitlines():
        name = line.split()[0]
        level = (len(line) - len(line.lstrip())) // 2
        above = [*above[:level], name]
        yield "".join(above)


def _fields() -> Iterator[str]:
    definition = yaml.safe_load((ROOT / "crds" / "finetunejobs.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for top in ("spec", "status"):
        yield from _leaves(schema[top], top)


def _leaves(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of the fields that hold a value; those of a list's items follow its name and []."""
    if "properties" in schema:
        for name, entry in schema["properties"].items():
            yield from _leaves(entry, f"{path}.{name}")
    elif "properties" in schema.get("items", {}):
        yield from _leaves(schema["items"], f"{path}[]")
    else:
        yield path


def _descriptions(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, entry in schema.get("properties", {}).items():
        yield f"{path}.{name}", entry.get("description", "")
        yield from _descriptions(entry, f"{path}.{name}")
        yield from _descriptions(entry.get("items", {}), f"{path}.{name}[]")


def _first_column(page: str) -> set[str]:
    return _names((DOCS / "reference" / f"{page}.md").read_text())


def _names(text: str) -> set[str]:
    """Names in back quotes in the first column of the tables; labels in braces are left out."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name.split("{")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}


def _condition_types(path: Path) -> Iterator[str]:
    """First parts of the tuples (type, status, reason, message); a tuple that begins with a status is the rest of one."""
    tuples = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Tuple) and len(node.elts) >= 2)
    firsts = {str(node.elts[0].value) for node in tuples if isinstance(node.elts[0], ast.Constant)}
    yield from firsts - {"True", "False", "Unknown"}


_SAY_REASONS = {"Event", "Warned", "WorkerWarning", "StorageProblem", "Remark", "WarningEntry"}


def _event_reasons(path: Path) -> Iterator[str]:
    """Reasons of events that one module makes: `Event(reason=...)`, and warnings of members, which become events."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SAY_REASONS:
            given = next(keyword.value for keyword in node.keywords if keyword.arg == "reason")
            if isinstance(given, ast.Subscript) and isinstance(given.value, ast.Name):
                given = given.value  # one of a table
            yield from _constants(given) if not isinstance(given, ast.Name) else _assigned(tree, given.id)


def _assigned(tree: ast.Module, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            yield from _constants(node.value)


def _constants(value: ast.expr) -> Iterator[str]:
    """The words that an expression can be: a constant, one of the two of a conditional, a value of a table."""
    if isinstance(value, ast.IfExp):
        yield from (*_constants(value.body), *_constants(value.orelse))
    elif isinstance(value, ast.Dict):
        for entry in value.values:
            yield from _constants(entry)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
