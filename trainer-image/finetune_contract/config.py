"""The resolved configuration of one job, pinned at admission: every default is already filled in.

It holds no secret and no default of its own: defaults stand in the resource's schema.
"""

from datetime import date
from typing import Literal

from finetune_contract.trajectory import accepted_digests
from finetune_contract.values import Value

CONTRACT_VERSION = 2
OLDEST_CONTRACT_VERSION = 1


class JobIdentity(Value):
    """Who the job is; `uid` is part of every key in the object store.

    `created` is the day (UTC) that chat templates are told when they ask for today; None in a configuration of the contract before.
    """

    name: str
    namespace: str
    uid: str
    created: date | None = None


class ModelConfig(Value):
    """Base model: `hf://OWNER/NAME`, `s3://`, `pvc://CLAIM/PATH` or `file://` (local runs only)."""

    uri: str
    revision: str | None


class DatasetConfig(Value):
    """Training rows and how many of them are held out for evaluation."""

    uri: str
    eval_uri: str | None
    eval_fraction: float
    format: Literal["auto", "messages", "prompt-completion", "text"]
    columns: Literal["sharegpt", "alpaca"] | None = None  # a configuration of the contract before has none


class AdapterConfig(Value):
    """LoRA on linear layers; `target_modules` is ("all-linear",) or names such as ("q_proj", "v_proj")."""

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]


class TrainingConfig(Value):
    """The recipe. `global_batch_size` counts rows; a micro-batch is one pack of at most `max_sequence_length` tokens."""

    epochs: int
    max_steps: int | None
    global_batch_size: int
    max_sequence_length: int
    packing: bool
    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    train_on: Literal["auto", "completions", "all"]
    precision: Literal["bf16", "fp32"]
    gradient_checkpointing: bool
    eval_every_steps: int | None
    chat_template: str | None
    seed: int
    shard_across: Literal["auto", "process", "member", "members"]
    # Of AdamW. A configuration of the contract before has none: it means these.
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8


class GangConfig(Value):
    """How many members train together and how many processes each runs."""

    min_nodes: int
    max_nodes: int
    processes_per_node: int


class CheckpointConfig(Value):
    """Where commits go, how many are kept and how far apart in seconds uploads start."""

    uri: str
    keep: int
    min_interval_seconds: float


class OutputConfig(Value):
    """Where the adapter goes and what to do when an adapter already is there."""

    uri: str
    if_exists: Literal["Fail", "Overwrite", "Skip"]


class StorageConfig(Value):
    """How to reach S3. Credentials come from files or the environment, never from here."""

    endpoint: str | None
    region: str | None


class TrackingConfig(Value):
    """Who is told about every step. The key comes from a file or the environment, never from here.

    A configuration of the contract before has no such section: nobody is told.
    """

    report_to: tuple[Literal["wandb"], ...] = ()
    project: str = ""
    entity: str | None = None
    endpoint: str | None = None


class JobConfig(Value):
    """All that a member must know of its job."""

    contract_version: int
    job: JobIdentity
    model: ModelConfig
    dataset: DatasetConfig
    adapter: AdapterConfig
    training: TrainingConfig
    gang: GangConfig
    checkpoint: CheckpointConfig
    output: OutputConfig
    storage: StorageConfig
    tracking: TrackingConfig = TrackingConfig()

    def trajectory_digest(self) -> str:
        """SHA-256 (hex) of what decides the bytes of the adapter; places, gang size and names are left out."""
        return self.trajectory_digests()[0]

    def trajectory_digests(self) -> tuple[str, ...]:
        """The digest that is written, then those of older contracts that mean the same: any of them is accepted when reading."""
        return accepted_digests(self)


def speak_together(version: int, oldest: int) -> bool:
    """True if a member of contract `version`, which still understands `oldest`, and this code have a version in common."""
    return version >= OLDEST_CONTRACT_VERSION and oldest <= CONTRACT_VERSION
