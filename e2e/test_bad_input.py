"""What the API server itself refuses, in its words; the golden files are compared byte by byte."""

import os
from pathlib import Path

import pytest

from e2e.product import Team

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
BAD = sorted(file.stem for file in (GOLDEN / "bad").glob("*.yaml"))


@pytest.mark.parametrize("name", BAD)
def test_the_api_server_says_what_the_golden_file_says(name: str, team: Team) -> None:
    if name == "changed-model":
        team.kubectl.run("apply", "-f", "-", stdin=without_namespace(GOLDEN / "good.yaml"))
    document = without_namespace(GOLDEN / "bad" / f"{name}.yaml")
    answer = team.kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=document, check=False)
    said = (answer.stdout + answer.stderr).replace(team.kubectl.namespace, "NAMESPACE")
    golden = GOLDEN / "api-server" / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(said)
    assert said == golden.read_text()


def without_namespace(file: Path) -> str:
    """The document for any namespace."""
    return file.read_text().replace(", namespace: team-a", "")
