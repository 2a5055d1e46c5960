"""A tiny model, rows, and the life of a job that nothing happened to."""

import asyncio

import pytest
from examples.make_tiny_model import make_tiny_model
from tests.faults.ledger import figures, pytest_runtest_makereport
from tests.faults.lives import NUM_STEPS, a_fault_document, live
from tests.faults.s3_lives import s3_port, store
from tests.local.runs import ROWS

__all__ = ["figures", "pytest_runtest_makereport", "s3_port", "store"]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "rows.jsonl").write_text(ROWS.read_text())
    make_tiny_model(folder / "qwen3", hidden_size=32)
    return folder


@pytest.fixture(scope="session")
def undisturbed_of(inputs, tmp_path_factory):
    """`await undisturbed_of(steps)`: the life of the job of so many steps that nothing happens to, lived once a session."""
    lives = {}

    async def of(num_steps):
        if num_steps not in lives:
            folder = tmp_path_factory.mktemp("undisturbed")
            document = a_fault_document(folder, inputs, training={"maxSteps": num_steps})
            lives[num_steps] = await live(folder, document, lambda scene: asyncio.sleep(0))
        return lives[num_steps]

    return of


@pytest.fixture(scope="session")
async def undisturbed(undisturbed_of):
    return await undisturbed_of(NUM_STEPS)
