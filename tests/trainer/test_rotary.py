"""A row has the frequencies of itself: alone, packed, after a longer row and on any number of members, for every kind of rope."""

import json
import shutil

import pytest
import torch
from tests.trainer.formations import a_config
from tests.trainer.test_model import CPU, built, logits_alone, some_tokens, train_a_little
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from finetune_contract.failures import TrainingError
from finetune_trainer.batch import make_micro_batch
from finetune_trainer.rotary import BY_LENGTH, FIXED

SHORT = 64  # tokens that the tiny model claims to know: rows of the test are shorter and longer
HEAD_DIM = 8
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": SHORT},
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": SHORT,
        "short_factor": [1.0] * (HEAD_DIM // 2),
        "long_factor": [4.0] * (HEAD_DIM // 2),
    },
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": SHORT},
    "proportional": {"factor": 2.0, "partial_rotary_factor": 0.5},
}


def a_model(inputs, folder, rope, **changes):
    shutil.copytree(inputs / "llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": SHORT, "rope_parameters": {"rope_type": rope, "rope_theta": 10000.0, **ROPES.get(rope, {})}}
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_every_kind_that_transformers_knows_is_decided_here():
    assert {"default", *ROPE_INIT_FUNCTIONS} == FIXED | BY_LENGTH == set(ROPES)


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_a_row_alone_is_the_row_in_a_pack_and_after_a_long_row_and_transformers_row(rope, inputs, tmp_path):
    folder = a_model(inputs, tmp_path / "model", rope)
    tokens = some_tokens(inputs, "llama")
    model = built(a_config(folder, inputs / "rows.jsonl"), folder)
    lengths = [tokens.length(row) for row in range(len(tokens))]
    short, long = lengths.index(min(lengths)), lengths.index(max(lengths))
    assert lengths[short] <= SHORT < lengths[long]

    def theirs(row):
        fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return logits_alone(fresh, tokens, row)

    def ours(*rows):
        return model.logits(make_micro_batch(rows, tokens, CPU)).detach()

    alone = {row: ours(row) for row in (short, long)}
    after_long = ours(short)
    assert torch.equal(alone[short], after_long)
    for row, logits in alone.items():
        torch.testing.assert_close(logits, theirs(row), rtol=1e-5, atol=1e-5)
    for pack in ((short, long), (long, short), (short, long, short)):
        torch.testing.assert_close(ours(*pack), torch.cat([alone[row] for row in pack]), rtol=1e-5, atol=1e-5)


def test_the_kinds_that_depend_on_the_length_do_so_here(inputs, tmp_path):
    """Or the test above would hold without any mending: without it the short row of a pack has the long row's frequencies."""
    tokens = some_tokens(inputs, "llama")
    lengths = [tokens.length(row) for row in range(len(tokens))]
    row = lengths.index(max(lengths))
    plain = a_model(inputs, tmp_path / "default", "default")
    base = built(a_config(plain, inputs / "rows.jsonl"), plain).logits(make_micro_batch((row,), tokens, CPU))
    for rope in sorted(BY_LENGTH):
        folder = a_model(inputs, tmp_path / rope, rope)
        model = built(a_config(folder, inputs / "rows.jsonl"), folder)
        assert not torch.allclose(base, model.logits(make_micro_batch((row,), tokens, CPU)), atol=1e-4)


def test_the_gradient_of_a_row_is_its_own_in_a_pack(inputs, tmp_path):
    folder = a_model(inputs, tmp_path / "model", "dynamic")
    tokens = some_tokens(inputs, "llama")
    model = built(a_config(folder, inputs / "rows.jsonl"), folder)
    train_a_little(model)

    def gradient(*packs):
        for parameter in model.adapters.values():
            parameter.grad = None
        for pack in packs:
            model.logits(make_micro_batch(pack, tokens, CPU)).square().sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.adapters.values()])

    torch.testing.assert_close(gradient((3, 5)), gradient((3,), (5,)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nodes", [2, 3])
def test_members_beside_each_other_give_the_bytes_of_one(nodes, formations, inputs, tmp_path):
    folder = a_model(inputs, tmp_path / "model", "dynamic")
    config = a_config(folder, inputs / "rows.jsonl", training={"maxSteps": 3})
    one, more = formations.run(config, tmp_path / "one"), formations.run(config, tmp_path / "more", nodes=nodes)
    assert one.is_complete, one.events
    assert one.adapter_sha256 == more.adapter_sha256
    assert [event["reason"] for event in one.of("warning") if event["reason"] == "LongerThanTheModel"] == []  # 4 x 24 tokens are known


def test_an_unknown_kind_is_refused_by_name(inputs, tmp_path):
    folder = a_model(inputs, tmp_path / "model", "axial")
    with pytest.raises(TrainingError, match="its rope is of the type axial; wanted one of default, dynamic"):
        built(a_config(folder, inputs / "rows.jsonl"), folder)
