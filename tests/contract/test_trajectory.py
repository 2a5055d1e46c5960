"""Digests of a configuration: literal values that never change, so that what was committed once can always be resumed from."""

import pytest

from finetune_contract import trajectory
from finetune_contract.config import (
    AdapterConfig,
    CheckpointConfig,
    DatasetConfig,
    GangConfig,
    JobConfig,
    JobIdentity,
    ModelConfig,
    OutputConfig,
    StorageConfig,
    TrainingConfig,
)


def a_config(**training) -> JobConfig:
    healthy = {
        "epochs": 1,
        "max_steps": None,
        "global_batch_size": 128,
        "max_sequence_length": 2048,
        "packing": True,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_on": "auto",
        "precision": "bf16",
        "gradient_checkpointing": False,
        "eval_every_steps": None,
        "chat_template": None,
        "seed": 0,
        "shard_across": "auto",
    }
    return JobConfig(
        contract_version=1,
        job=JobIdentity(name="support-bot", namespace="team-a", uid="0c1d"),
        model=ModelConfig(uri="hf://Qwen/Qwen3-8B", revision="main"),
        dataset=DatasetConfig(uri="s3://data/support.jsonl", eval_uri=None, eval_fraction=0.02, format="auto"),
        adapter=AdapterConfig(rank=16, alpha=32.0, dropout=0.0, target_modules=("all-linear",)),
        training=TrainingConfig(**healthy | training),
        gang=GangConfig(min_nodes=2, max_nodes=4, processes_per_node=8),
        checkpoint=CheckpointConfig(uri="s3://ckpt/b", keep=2, min_interval_seconds=0.0),
        output=OutputConfig(uri="s3://a/b", if_exists="Fail"),
        storage=StorageConfig(endpoint=None, region=None),
    )


ODD = {"learning_rate": 1e-5, "chat_template": "{{ '\u00e9' }}", "max_steps": 7, "eval_every_steps": 5, "gradient_checkpointing": True}


# The second of each pair was computed by the code of contract 1.
@pytest.mark.parametrize(
    ("config", "digests"),
    [
        (
            a_config(),
            (
                "83080ca6a2e2f114b0893deefc7115deaca0e971af3c077c62f58ecb06175fa1",
                "3d96538c2f4fb7b8295e698d80e5a14434b2645d01180c0a5670e9e6732d2efb",
            ),
        ),
        (
            a_config(**ODD),
            (
                "749d5230a35b3869ed2750dfa371ae523f355216fd48e39110af27226aa228da",
                "2a8960ecbf24070945bc463f1645891ddaec9b0e144b9e6dc2ff720713362a9a",
            ),
        ),
    ],
)
def test_a_digest_never_changes(config, digests) -> None:
    assert config.trajectory_digests() == digests
    assert config.trajectory_digest() == digests[0]


def test_what_decides_no_byte_changes_no_digest() -> None:
    other = a_config(gradient_checkpointing=True, eval_every_steps=10, shard_across="member")
    assert other.trajectory_digest() == a_config().trajectory_digest()
    assert a_config(seed=1).trajectory_digest() != a_config().trajectory_digest()


@pytest.mark.parametrize("other", [{"adam_beta1": 0.8}, {"adam_beta2": 0.95}, {"adam_epsilon": 1e-12}])
def test_other_settings_of_adamw_are_another_trajectory(other) -> None:
    assert a_config(**other).trajectory_digest() != a_config().trajectory_digest()


def test_a_later_field_at_its_default_changes_no_digest(monkeypatch) -> None:
    """As if `training.schedule` had come later: at its default the digest is the one without it, and contract 1 is understood."""
    first = {**trajectory.FIRST, "training": tuple(name for name in trajectory.FIRST["training"] if name != "schedule")}
    monkeypatch.setattr(trajectory, "FIRST", first)
    without = a_config().trajectory_digest()
    monkeypatch.setattr(trajectory, "LATER", {"training.schedule": "cosine"})
    assert a_config().trajectory_digest() == without
    assert len(a_config().trajectory_digests()) == 2
    assert a_config(schedule="linear").trajectory_digest() != without
    assert len(a_config(schedule="linear").trajectory_digests()) == 1


def test_every_field_is_counted_or_named_as_deciding_no_byte() -> None:
    fields = {f"{name}.{field}" for name in trajectory.FIRST for field in type(getattr(a_config(), name)).model_fields}
    first = {f"{name}.{field}" for name, counted in trajectory.FIRST.items() for field in counted}
    assert fields == first | set(trajectory.LATER) | trajectory.APART
    assert not (first & set(trajectory.LATER)) | (first & trajectory.APART) | (set(trajectory.LATER) & trajectory.APART)
