"""What only a run can know about the input ends the job at once, and the Failed condition says what the golden file says."""

import contextlib
import os
from pathlib import Path

import pytest
from tests.agent.object_stores import an_error, serving
from tests.builders.machine import HANG_SECONDS
from tests.local.runs import ROWS, a_document, a_run, write_text_rows

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "condition"
GOOD_ROWS = [{"text": f"row {number}"} for number in range(40)]


def broken_row(folder, inputs):
    lines = ROWS.read_text().splitlines()[:20]
    lines[16] = '{"massages": [{"role": "user", "content": "hello"}]}'
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return {}


def no_rows(folder, inputs):
    (folder / "rows.jsonl").write_text("")
    return {}


def only_long_rows(folder, inputs):
    long = {"messages": [{"role": "user", "content": "why " * 200}, {"role": "assistant", "content": "because"}]}
    write_text_rows(folder / "rows.jsonl", [long] * 20)
    return {"training": {"maxSequenceLength": 16}}


def no_model(folder, inputs):
    return {"model": {"uri": f"file://{folder}/nowhere"}}


def no_chat_template(folder, inputs):
    return {"model": {"uri": f"file://{inputs}/untemplated"}}


def unknown_architecture(folder, inputs):
    model = folder / "model"
    model.mkdir()
    for file in (inputs / "qwen3").iterdir():
        text = file.read_bytes()
        if file.name == "config.json":
            text = text.replace(b"Qwen3ForCausalLM", b"MambaForCausalLM").replace(b'"qwen3"', b'"mamba"')
        (model / file.name).write_bytes(text)
    return {"model": {"uri": f"file://{model}"}}


def rows_are_missing(folder, inputs):
    (folder / "rows.jsonl").unlink()
    return {}


def refusing(status, code):
    """A case whose store answers every request with this error."""

    @contextlib.contextmanager
    def spoil(folder, inputs):
        with serving(an_error(status, code)) as endpoint:
            yield {"model": {"uri": "s3://models/qwen3"}, "storage": {"endpoint": endpoint, "region": "us-east-1"}}

    return spoil


STORES = {
    "wrong-bucket": refusing(404, "NoSuchBucket"),
    "wrong-secret-key": refusing(403, "SignatureDoesNotMatch"),
    "expired-credentials": refusing(400, "ExpiredToken"),
}
CASES = (broken_row, no_rows, only_long_rows, no_model, no_chat_template, unknown_architecture, rows_are_missing)


@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
async def test_the_failed_condition_says_what_is_wrong_with(spoil, inputs, tmp_path):
    (tmp_path / "rows.jsonl").write_text((inputs / "rows.jsonl").read_text())
    status, said = await failure_of(spoil(tmp_path, inputs), inputs, tmp_path)
    assert said == golden(spoil.__name__.replace("_", "-"), said)
    assert status.restarts.total == 0


@pytest.mark.parametrize("name", STORES)
async def test_the_failed_condition_says_what_the_store_refuses(name, inputs, tmp_path):
    (tmp_path / "rows.jsonl").write_text((inputs / "rows.jsonl").read_text())
    with STORES[name](tmp_path, inputs) as changes:
        _, said = await failure_of(changes, inputs, tmp_path, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="do-not-show")
        said = said.replace(changes["storage"]["endpoint"], "ENDPOINT")
    assert said == golden(name, said)
    assert "do-not-show" not in said


async def failure_of(changes, inputs, tmp_path, **environment):
    """Status and words of a job of one member that ends by what `changes` spoil."""
    one_member = {"nodes": {"min": 1, "max": 1}}
    document = a_document(tmp_path, model=inputs / "qwen3", rows=tmp_path / "rows.jsonl", resources=one_member)
    for section, change in changes.items():
        document["spec"][section] = document["spec"].get(section, {}) | change
    async with a_run(tmp_path, document, **environment) as run:
        status = await run.wait_end(deadline_seconds=HANG_SECONDS)
    failed = status.condition("Failed")
    assert failed is not None, status.conditions
    return status, f"{failed.reason}: {failed.message}\n".replace(str(tmp_path), "FOLDER").replace(str(inputs), "INPUTS")


def golden(name, said):
    """What the golden file holds; written anew with UPDATE_GOLDEN=1."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(said)
    return file.read_text() if file.exists() else f"no golden file {file.name}"
