"""Fixtures of the local runs: tiny models made once a session, rows, and what an undisturbed run gives."""

import pytest
from examples.make_tiny_model import make_tiny_model
from tests.builders.machine import HANG_SECONDS
from tests.local.runs import ROWS, a_document, a_run, adapter_sha256, write_rows


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Folder with rows.jsonl and the models qwen3, llama and untemplated."""
    folder = tmp_path_factory.mktemp("inputs")
    write_rows(folder / "rows.jsonl")
    make_tiny_model(folder / "qwen3", hidden_size=32, rows=ROWS)
    make_tiny_model(folder / "llama", architecture="llama", hidden_size=32, rows=ROWS)
    make_tiny_model(folder / "untemplated", hidden_size=32, with_chat_template=False, rows=ROWS)
    return folder


@pytest.fixture
def document(inputs, tmp_path):
    """`document(**changes)`: the healthy job of these tests, with results below tmp_path."""

    def make(model="qwen3", rows="rows.jsonl", **changes):
        return a_document(tmp_path, model=inputs / model, rows=inputs / rows, **changes)

    return make


@pytest.fixture(scope="session")
async def undisturbed(inputs, tmp_path_factory):
    """Status and adapter digest of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    document = a_document(folder, model=inputs / "qwen3", rows=inputs / "rows.jsonl")
    async with a_run(folder, document) as run:
        status = await run.wait_end(deadline_seconds=HANG_SECONDS)
    return status, adapter_sha256(folder)
