"""Every bad input has one clear message; `finetune validate` prints what the golden file says."""

from pathlib import Path

import pytest

from finetune_operator.api.rules import validate
from finetune_operator.api.yaml_reader import read_documents
from finetune_operator.cli import check_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
BAD = sorted(file.stem for file in (GOLDEN / "bad").glob("*.yaml"))
CHANGES = {"changed-model"}  # good by itself, bad as a change of good.yaml


@pytest.mark.parametrize("name", [name for name in BAD if name not in CHANGES])
def test_validate_says_what_the_golden_file_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN / "bad")
    said = [line for _, line in check_file(Path(f"{name}.yaml"), is_local=False)]
    assert "\n".join(said) + "\n" == (GOLDEN / "validate" / f"{name}.txt").read_text()


def test_a_change_of_a_field_that_a_running_job_cannot_follow_is_refused() -> None:
    old, new = (read_documents((GOLDEN / file).read_text())[0].value for file in ("good.yaml", "bad/changed-model.yaml"))
    said = [str(error) for error in validate(new, old)]
    assert "\n".join(said) + "\n" == (GOLDEN / "validate" / "changed-model.txt").read_text()


def test_the_yaml_of_the_readme_is_good() -> None:
    assert all(not is_error for is_error, _ in check_file(GOLDEN / "good.yaml", is_local=False))


@pytest.mark.parametrize("plain", ["2e-4", "2E-4", "1e3", ".5", "-1.5e+3"])
def test_a_plain_float_of_yaml_1_2_is_a_number(plain: str) -> None:
    assert read_documents(f"value: {plain}")[0].value == {"value": float(plain)}


def test_a_quoted_number_stays_a_string() -> None:
    assert read_documents('value: "2e-4"')[0].value == {"value": "2e-4"}
