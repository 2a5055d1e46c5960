"""Tiny models made once a session, and the process that formations are forked from."""

import pytest
from examples.make_tiny_model import make_tiny_model
from tests.trainer.formations import ROWS, Formations

from finetune_trainer.families import FAMILIES


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Folder with rows.jsonl and one model for each family, named by its type."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "rows.jsonl").write_text("".join(ROWS.read_text().splitlines(keepends=True)[:60]))
    for architecture in FAMILIES:
        make_tiny_model(folder / architecture, architecture=architecture, hidden_size=32, vocab_size=512, rows=ROWS)
    return folder


@pytest.fixture(scope="session")
def formations():
    started = Formations()
    yield started
    started.close()
