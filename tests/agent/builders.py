"""Healthy defaults for what the agent works on; a test changes only what its sentence is about."""

from pathlib import Path

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
    TrackingConfig,
    TrainingConfig,
)
from finetune_contract.slots import SlotFile, Snapshot
from finetune_contract.state import InputDigests, NumericsKey, RunRecord, StateId

UID = "0000aaaa-1111"


def a_training(**changes) -> TrainingConfig:
    values = {
        "epochs": 1,
        "max_steps": 5,
        "global_batch_size": 4,
        "max_sequence_length": 64,
        "packing": True,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_on": "auto",
        "precision": "fp32",
        "gradient_checkpointing": False,
        "eval_every_steps": None,
        "chat_template": None,
        "seed": 0,
        "shard_across": "auto",
    }
    return TrainingConfig(**(values | changes))


def a_config(folder: Path, **changes) -> JobConfig:
    """All places are folders below `folder`."""
    values = {
        "contract_version": 1,
        "job": JobIdentity(name="support-bot", namespace="team-a", uid=UID),
        "model": ModelConfig(uri=f"file://{folder}/model", revision=None),
        "dataset": DatasetConfig(uri=f"file://{folder}/rows.jsonl", eval_uri=None, eval_fraction=0.0, format="auto"),
        "adapter": AdapterConfig(rank=4, alpha=8, dropout=0.0, target_modules=("all-linear",)),
        "training": a_training(),
        "gang": GangConfig(min_nodes=1, max_nodes=2, processes_per_node=1),
        "checkpoint": CheckpointConfig(uri=f"file://{folder}/checkpoints", keep=2, min_interval_seconds=0.0),
        "output": OutputConfig(uri=f"file://{folder}/adapter", if_exists="Fail"),
        "storage": StorageConfig(endpoint=None, region=None),
        "tracking": TrackingConfig(report_to=(), project="finetune", entity=None, endpoint=None),
    }
    return JobConfig(**(values | changes))


def write_inputs(folder: Path) -> None:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "model/model.safetensors").write_bytes(b"weights")
    (folder / "rows.jsonl").write_text('{"text": "hello"}\n')


def a_record(config: JobConfig, step: int) -> RunRecord:
    return RunRecord(
        step=step,
        total_steps=100,
        rows_consumed=4 * step,
        tokens_total=10 * step,
        sample_digest="s",
        num_parameters=8,
        config_digest=config.trajectory_digest(),
        inputs=InputDigests(model="m", dataset="d"),
        numerics=NumericsKey(torch_version="2", device="cpu", threads=1, attention="sdpa", pack_tokens=64),
    )


def write_snapshot(slots: SlotFile, config: JobConfig, *, formation: int = 1, step: int, fill: int = 7) -> None:
    state = bytes([fill]) * 96
    slots.reserve(len(state))
    slots.write(StateId(formation=formation, step=step), a_record(config, step), state)


def a_snapshot(slots: SlotFile, config: JobConfig, *, formation: int = 1, step: int) -> Snapshot:
    write_snapshot(slots, config, formation=formation, step=step)
    snapshot = slots.read_newest()
    assert snapshot is not None
    return snapshot
