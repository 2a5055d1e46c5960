"""A tiny model, rows, and the life of a job that nothing happened to."""

import asyncio

import pytest
from examples.make_tiny_model import make_tiny_model
from tests.faults.ledger import figures, pytest_runtest_makereport
from tests.faults.lives import a_fault_document, live
from tests.local.runs import ROWS

__all__ = ["figures", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "rows.jsonl").write_text(ROWS.read_text())
    make_tiny_model(folder / "qwen3", hidden_size=32)
    return folder


@pytest.fixture(scope="session")
async def undisturbed(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return await live(folder, a_fault_document(folder, inputs), lambda run: asyncio.sleep(0))
