"""Every bad input has one clear message; `finetune validate` prints what the golden file says."""

import os
from pathlib import Path

import pytest
from tests.builders.observed import a_job, observed

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.rules import check_spec, validate
from finetune_operator.api.yaml_reader import read_documents
from finetune_operator.cli import check_file
from finetune_operator.decide.chain import decide

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
EXAMPLES = GOLDEN.parent.parent / "examples"
BAD = sorted(file.stem for file in (GOLDEN / "bad").glob("*.yaml"))
SLIPPED_PAST = ("file-on-a-cluster", "min-above-max", "output-is-checkpoint", "too-many-pods", "two-eval-sources")  # rules, not bounds
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


@pytest.mark.parametrize("name", SLIPPED_PAST)
def test_the_failed_condition_says_what_slipped_past_the_api_server(name: str) -> None:
    """An older resource definition, or a webhook that was away: the pass checks again, before anything is placed."""
    document = read_documents((GOLDEN / "bad" / f"{name}.yaml").read_text())[0].value
    bad = FineTuneJob.model_validate(document)
    errors = tuple(str(error) for error in check_spec(bad))
    decision = decide(observed(job=a_job().model_copy(update={"spec": bad.spec}), pods=(), sessions=(), spec_errors=errors))
    failed = decision.status.condition("Failed")
    assert failed is not None
    said = f"{failed.reason}: {failed.message}\n"
    golden = GOLDEN / "condition" / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(said)
    assert said == golden.read_text()


def test_the_yaml_of_the_readme_is_good() -> None:
    assert all(not is_error for is_error, _ in check_file(GOLDEN / "good.yaml", is_local=False))


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_good(file: Path) -> None:
    lines = list(check_file(file, is_local=file.name == "local.yaml"))
    assert not any(is_error for is_error, _ in lines)
    assert any("is valid" in line for _, line in lines)


def test_what_stands_beside_a_job_in_its_file_is_left_to_the_cluster(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    job = (GOLDEN / "good.yaml").read_text()
    file.write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: rows}}\n---\n{job}")
    assert list(check_file(file, is_local=False)) == [
        (False, f"{file}: ConfigMap is not checked"),
        (False, f"{file}: FineTuneJob support-bot is valid"),
    ]
    file.write_text(f"apiVersion: v1\nkind: FineTuneJob\nmetadata: {{name: x}}\n---\n{job}")
    assert any(is_error for is_error, _ in check_file(file, is_local=False))


@pytest.mark.parametrize("plain", ["2e-4", "2E-4", "1e3", ".5", "-1.5e+3"])
def test_a_plain_float_of_yaml_1_2_is_a_number(plain: str) -> None:
    assert read_documents(f"value: {plain}")[0].value == {"value": float(plain)}


def test_a_quoted_number_stays_a_string() -> None:
    assert read_documents('value: "2e-4"')[0].value == {"value": "2e-4"}
