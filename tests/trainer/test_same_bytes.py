"""One recipe gives one adapter, byte for byte: for any number of ranks, any shard group, and across a kill and a resume."""

import pytest
from tests.trainer.formations import NUM_STEPS, a_config

from finetune_contract.slots import SlotFile

HARD = {"adapter": {"dropout": 0.1}, "dataset": {"evalFraction": 0.2}, "training": {"evalEverySteps": 2}}


@pytest.fixture(scope="session")
def one_rank(formations, inputs, tmp_path_factory):
    """Undisturbed, one rank, with dropout and evaluation."""
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD)
    return formations.run(config, tmp_path_factory.mktemp("one"))


def test_one_rank_completes_and_learns(one_rank):
    assert one_rank.is_complete
    assert len(one_rank.losses) == NUM_STEPS
    assert min(one_rank.losses[1:]) < one_rank.losses[0]


@pytest.mark.parametrize(
    ("nodes", "processes", "shard_across"),
    [
        (2, 1, "process"),
        (3, 1, "process"),
        (1, 2, "process"),
        (1, 2, "member"),
        (1, 3, "member"),
        (2, 1, "members"),
        (3, 1, "members"),
        (2, 2, "member"),
    ],
)
def test_every_layout_gives_the_bytes_of_one_rank(nodes, processes, shard_across, formations, inputs, one_rank, tmp_path):
    # The layout is no part of the recipe's digest for this test's purpose: only `shardAcross` differs, and it may not matter.
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD)
    training = config.training.model_copy(update={"shard_across": shard_across})
    ended = formations.run(config.model_copy(update={"training": training}), tmp_path, nodes=nodes, processes=processes)
    assert ended.is_complete, ended.events
    assert ended.adapter_sha256 == one_rank.adapter_sha256
    assert ended.losses == one_rank.losses
    assert ended.of("exported")[0]["eval_loss"] == one_rank.of("exported")[0]["eval_loss"]


def test_bf16_with_checkpointing_is_the_same_on_one_rank_and_on_two_sharded_ones(formations, inputs, tmp_path):
    changes = {"precision": "bf16", "gradientCheckpointing": True}
    config = a_config(inputs / "llama", inputs / "rows.jsonl", training=changes)
    sharded = a_config(inputs / "llama", inputs / "rows.jsonl", training=changes | {"shardAcross": "members"})
    one, two = formations.run(config, tmp_path / "one"), formations.run(sharded, tmp_path / "two", nodes=2)
    assert one.is_complete, one.events
    assert two.is_complete, two.events
    assert one.adapter_sha256 == two.adapter_sha256


@pytest.mark.parametrize(("nodes_before", "nodes_after"), [(1, 1), (2, 2), (3, 2), (1, 3)])
def test_a_kill_and_a_resume_change_no_byte(nodes_before, nodes_after, formations, inputs, one_rank, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD)
    killed = formations.run(config, tmp_path, nodes=nodes_before, kill_at=3)
    assert not killed.is_complete
    resumed = formations.run(config, tmp_path, nodes=nodes_after, formation=2)
    assert resumed.is_complete, resumed.events
    first_step = next(event["resumed_step"] for event in resumed.of("phase") if event.get("resumed_step") is not None)
    assert first_step >= 3
    assert resumed.losses == one_rank.losses[first_step:]
    assert resumed.adapter_sha256 == one_rank.adapter_sha256


def test_a_kill_while_snapshots_are_written_beside_the_steps_changes_no_byte(formations, inputs, tmp_path):
    # An adapter of 1.6 MB of state: smaller ones are written at once.
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD | {"adapter": {"rank": 128, "alpha": 128}})
    straight = formations.run(config, tmp_path / "straight")
    assert not formations.run(config, tmp_path / "killed", kill_at=3).is_complete
    resumed = formations.run(config, tmp_path / "killed", formation=2)
    assert len(resumed.losses) <= NUM_STEPS - 3
    assert resumed.adapter_sha256 == straight.adapter_sha256 != ""


def test_the_newest_state_of_any_member_is_taken(formations, inputs, one_rank, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD)
    formations.run(config, tmp_path, nodes=2, kill_at=4)
    (tmp_path / "slots-0").unlink()
    with (tmp_path / "slots-1").open("r+b") as slots:
        held = SlotFile(slots.fileno()).newest_id().step  # the kill may meet this member before it has written what the other reported
    assert held >= 3
    resumed = formations.run(config, tmp_path, nodes=2, formation=2)
    assert resumed.of("phase")[-1]["phase"] == "exporting"
    assert len(resumed.losses) == NUM_STEPS - held
    assert resumed.adapter_sha256 == one_rank.adapter_sha256


def test_a_formation_that_finds_everything_done_only_exports(formations, inputs, one_rank, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD)
    formations.run(config, tmp_path)
    again = formations.run(config, tmp_path, formation=2)
    assert again.is_complete
    assert not again.losses
    assert again.adapter_sha256 == one_rank.adapter_sha256


def test_an_evaluation_that_is_due_is_done_first_on_resume(formations, inputs, one_rank, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", **HARD)
    formations.run(config, tmp_path, kill_at=4)
    resumed = formations.run(config, tmp_path, formation=2)
    phases = [event["phase"] for event in resumed.of("phase")]
    num_done = NUM_STEPS - len(resumed.losses)  # 4, but for a kill that came late
    assert (phases.index("evaluating") < phases.index("first_step")) == (num_done % 2 == 0)
    assert resumed.of("progress")[-1]["progress"]["eval_loss"] == one_rank.of("progress")[-1]["progress"]["eval_loss"]
