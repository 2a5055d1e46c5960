"""The chart grants the verbs that the code uses, and no other. Which resource a module asks for is said here; its verbs are read."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = ROOT / "operator" / "finetune_operator"
TEMPLATES = ROOT / "helm" / "finetune-operator" / "templates"
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# Every module that sends a request. A list: in the order of its requests.
RESOURCES: dict[str, str | list[str]] = {
    "edge/authenticate.py": "pods",
    "kube/certificates.py": ["secrets", "secrets", "validatingwebhookconfigurations", "validatingwebhookconfigurations"],
    "kube/configmaps.py": "configmaps",
    "kube/endpoints.py": "endpointslices",
    "kube/events.py": "events",
    "kube/informer.py": "pods",
    "kube/jobs.py": ["finetunejobs/status", "finetunejobs"],
    "kube/lease.py": "leases",
    "kube/members.py": "pods",
    "kube/status_writer.py": "finetunejobs/status",
    "kube/tokens.py": ["/openid/v1/jwks", "tokenreviews"],
}
LISTED_AND_WATCHED = ("pods", "finetunejobs")  # by our informer, and by kopf


def test_the_chart_grants_the_verbs_that_the_code_uses_and_no_other() -> None:
    assert granted() == used()


def used() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for resource in LISTED_AND_WATCHED:
        found[resource] |= {"list", "watch"}
    modules = {module: requests for path in OPERATOR.rglob("*.py") if (requests := list(_requests(path))) for module in [_name(path)]}
    assert set(modules) == set(RESOURCES)
    for module, requests in modules.items():
        named = RESOURCES[module]
        resources = named if isinstance(named, list) else [named] * len(requests)
        for methods, resource in zip(requests, resources, strict=True):
            found[resource] |= {VERBS[method] for method in methods}
    return dict(found)


def granted() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    text = (TEMPLATES / "rbac.yaml").read_text() + (TEMPLATES / "_helpers.tpl").read_text()
    for resources, verbs in re.findall(
        r"(?:resources|nonResourceURLs): \[([^\]]+)\]\n(?:  resourceNames: .*\n)?  verbs: \[([^\]]+)\]", text
    ):
        for resource in resources.split(", "):
            found[resource] |= set(verbs.split(", "))
    assert sum(text.count(f"{key}: [") for key in ("resources", "nonResourceURLs")) == text.count("verbs: [")
    return dict(found)


def _name(path: Path) -> str:
    return path.relative_to(OPERATOR).as_posix()


def _requests(path: Path) -> Iterator[tuple[str, ...]]:
    """Methods of each `x.request(METHOD, ..)`, in the order of the lines; the client itself passes methods on."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    for call in sorted(calls, key=lambda call: call.lineno):
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr == "request" and call.args and _name(path) != "kube/client.py":
            yield tuple(node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant) and node.value in VERBS)
