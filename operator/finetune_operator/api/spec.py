"""`spec` of a FineTuneJob: every field with its default, bounds and description, said once. No rule across fields stands here."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from finetune_operator.api.syntax import (
    AnnotationValue,
    Identifier,
    Image,
    LabelValue,
    ObjectName,
    OneWord,
    QuantityText,
    Text,
    Url,
)

Uri = Annotated[str, Field(min_length=1, max_length=1024)]
Quantity = QuantityText | Annotated[int, Field(ge=0, le=2**63 - 1)]
ShortName = Annotated[str, Field(min_length=1, max_length=253)]
AS_SET: dict[str, JsonValue] = {"x-kubernetes-list-type": "set"}  # each entry once


class SpecValue(BaseModel):
    """Frozen, camelCase outside; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class ModelSpec(SpecValue):
    """The base model that the adapter is trained on."""

    uri: Uri = Field(description="Base model: hf://OWNER/NAME, s3://BUCKET/PATH, pvc://CLAIM/PATH, or file:///PATH in local runs.")
    revision: OneWord | None = Field(
        default=None,
        max_length=256,
        description="Branch, tag or commit of a hub model; the job pins the commit that it names.",
    )


class DatasetSpec(SpecValue):
    """Training rows as JSON Lines: chat messages, prompt/completion or text."""

    uri: Uri = Field(
        description="JSON Lines file: s3://BUCKET/KEY, hf://OWNER/NAME, pvc://CLAIM/PATH, configmap://NAME/KEY, or file:///PATH locally."
    )
    eval_uri: Uri | None = Field(default=None, description="Rows for evaluation, in the same forms as dataset.uri; excludes evalFraction.")
    eval_fraction: float = Field(default=0.0, ge=0, lt=1, description="Share of the rows held out for evaluation, chosen by seed.")
    format: Literal["auto", "messages", "prompt-completion", "text"] = Field(
        default="auto", description="Form of the rows; auto reads it from the first row."
    )
    columns: Literal["sharegpt", "alpaca"] | None = Field(
        default=None, description="Columns of another tool that are turned into chat messages; excludes format."
    )


class AdapterSpec(SpecValue):
    """The LoRA adapter."""

    rank: int = Field(default=16, ge=1, le=512, description="LoRA rank; vLLM serves ranks up to 16 by default.")
    alpha: float = Field(default=32, gt=0, le=4096, description="LoRA alpha; the adapter's output is scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: tuple[Identifier, ...] = Field(
        default=("all-linear",),
        min_length=1,
        max_length=64,
        json_schema_extra=AS_SET,
        description="Linear layers to adapt, by name, or all-linear.",
    )


class TrainingSpec(SpecValue):
    """The recipe."""

    epochs: int = Field(default=1, ge=1, le=1000, description="Passes over the data.")
    max_steps: int | None = Field(
        default=None, ge=1, le=100_000_000, description="Upper bound of optimizer steps; absent = as many as epochs gives."
    )
    global_batch_size: int = Field(default=16, ge=1, le=65536, description="Rows in one optimizer step, over all nodes.")
    max_sequence_length: int = Field(default=2048, ge=8, le=1_048_576, description="Tokens in one micro-batch; longer rows are cut.")
    packing: bool = Field(default=True, description="Put several rows into one micro-batch; rows do not attend to each other.")
    learning_rate: float = Field(default=2e-4, gt=0, le=10, description="Peak learning rate; a number, unquoted.")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="Decay of the learning rate after warm-up.")
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1, description="Share of the steps over which the learning rate rises to its peak.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6, description="Global norm to which gradients are clipped.")
    train_on: Literal["auto", "completions", "all"] = Field(
        default="auto", description="Tokens that carry loss; auto: completions for chat and prompt/completion rows, all for text."
    )
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Precision of the base model; adapters are kept in fp32.")
    gradient_checkpointing: bool = Field(default=True, description="Recompute activations to save memory; does not change results.")
    eval_every_steps: int | None = Field(
        default=None, ge=1, le=100_000_000, description="Steps between evaluations; absent = one evaluation at the end."
    )
    chat_template: str | None = Field(
        default=None, max_length=65536, description="Jinja chat template, used instead of the template of the tokenizer."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of data order, initialisation and dropout.")
    shard_across: Literal["auto", "process", "member", "members"] = Field(
        default="auto",
        description="Ranks that share one copy of the base model: of a process, a member or all members; auto takes the fewest that fit.",
    )


class NodesSpec(SpecValue):
    """How many pods train together."""

    min: int = Field(default=1, ge=1, le=256, description="Fewest pods that may train; below max the gang is elastic.")
    max: int = Field(default=1, ge=1, le=256, description="Pods wanted; may be changed while the job runs.")
    elastic_wait_seconds: float = Field(
        default=30,
        ge=0,
        le=86400,
        description="With min below max: seconds that the gang waits for missing pods before it goes on with fewer.",
    )


class ResourcesSpec(SpecValue):
    """Size of the gang and of each pod in it."""

    nodes: NodesSpec = Field(default=NodesSpec(), description="Pods in the gang.")
    spares: int = Field(default=0, ge=0, le=8, description="Pods beyond nodes.max that are kept ready to take a lost pod's place.")
    processes_per_node: int = Field(default=1, ge=1, le=64, description="Training processes in a pod: one for each GPU.")
    requests: dict[ShortName, Quantity] = Field(
        default={"cpu": "1", "memory": "4Gi"}, max_length=32, description="Resource requests of a pod; cpu and memory are always set."
    )
    limits: dict[ShortName, Quantity] = Field(default={}, max_length=32, description="Resource limits of a pod, such as nvidia.com/gpu.")


class CheckpointSpec(SpecValue):
    """Where resume states are committed."""

    uri: Uri = Field(description="Place for commits: s3://BUCKET/PATH, pvc://CLAIM/PATH, or file:///PATH in local runs.")
    keep: int = Field(default=2, ge=2, le=1000, description="Number of newest commits that are kept.")
    min_interval_seconds: float = Field(default=10, ge=0, le=86400, description="Minimum seconds between the starts of two uploads.")


class OutputSpec(SpecValue):
    """Where the adapter goes."""

    uri: Uri = Field(description="Place for the adapter: s3://BUCKET/PATH, pvc://CLAIM/PATH, or file:///PATH in local runs.")
    if_exists: Literal["Fail", "Overwrite", "Skip"] = Field(
        default="Fail",
        description="What to do if the place holds an adapter of another job. Skip completes the job if that adapter has the same recipe.",
    )


class StorageSpec(SpecValue):
    """How pods reach the object store and the hub. Credentials are referenced, never written here."""

    endpoint: Url | None = Field(default=None, description="URL of an S3-compatible store; absent = AWS.")
    region: Identifier | None = Field(default=None, max_length=64, description="Region of the store.")
    secret_name: ObjectName | None = Field(
        default=None, description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if needed, HF_TOKEN."
    )
    service_account_name: ObjectName | None = Field(default=None, description="ServiceAccount with workload identity, instead of a Secret.")


class TrackingSpec(SpecValue):
    """Where every step is logged, in addition to the status. Training never waits for it."""

    report_to: tuple[Literal["wandb"], ...] = Field(
        default=(),
        max_length=1,
        json_schema_extra=AS_SET,
        description="Trackers that log every step. wandb: Weights & Biases, with one run for the whole job across restarts.",
    )
    project: Text = Field(default="finetune", min_length=1, max_length=128, description="Weights & Biases project of the run.")
    entity: Text | None = Field(
        default=None, max_length=128, description="Weights & Biases team or user of the run; absent = the default of the key."
    )
    endpoint: Url | None = Field(default=None, description="URL of a self-hosted Weights & Biases server; absent = the public one.")
    secret_name: ObjectName | None = Field(default=None, description="Secret with WANDB_API_KEY; absent = storage.secretName.")


class TolerationSpec(SpecValue):
    """As in a pod."""

    key: ShortName | None = Field(default=None, description="Key of the taint; absent, with operator Exists, = every taint.")
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Exists tolerates every value of the key, Equal only the given value."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect that is tolerated; absent = every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Seconds that a NoExecute taint is tolerated; absent = without limit."
    )


class PlacementSpec(SpecValue):
    """Where pods may run and how long a gang may wait for room."""

    timeout_seconds: int = Field(
        default=300,
        ge=10,
        le=86400,
        description="Seconds that a gang may stay incomplete; then it releases all its pods and waits in the queue.",
    )
    start_timeout_seconds: int = Field(
        default=1800,
        ge=60,
        le=604800,
        description="Seconds that pods with a node may take to start and reach the store; then the gang releases all its pods. "
        "The third time fails the job.",
    )
    node_selector: dict[ShortName, LabelValue] = Field(default={}, max_length=64, description="Labels that a node must have.")
    tolerations: tuple[TolerationSpec, ...] = Field(default=(), max_length=64, description="Taints that are tolerated.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        default=(), max_length=16, json_schema_extra=AS_SET, description="Names of Secrets with which images are pulled."
    )
    labels: dict[ShortName, LabelValue] = Field(default={}, max_length=64, description="Labels for the pods.")
    annotations: dict[ShortName, AnnotationValue] = Field(default={}, max_length=64, description="Annotations for the pods.")


class RestartPolicySpec(SpecValue):
    """When repeated crashes fail the job."""

    max_crashes_without_progress: int = Field(
        default=3, ge=1, le=100, description="Crashes in a row, without a new finished step, that fail the job. Disruptions never count."
    )


class FineTuneJobSpec(SpecValue):
    """Model, rows, recipe, pods and places of one training run."""

    model: ModelSpec = Field(description="The base model.")
    dataset: DatasetSpec = Field(description="The rows to train and evaluate on.")
    adapter: AdapterSpec = Field(default=AdapterSpec(), description="The LoRA adapter.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="Hyperparameters of the training.")
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="Number and size of the pods.")
    checkpoint: CheckpointSpec = Field(description="Where resume states are committed.")
    output: OutputSpec = Field(description="Where the adapter is published.")
    storage: StorageSpec = Field(default=StorageSpec(), description="How pods reach the object store and the hub.")
    tracking: TrackingSpec = Field(default=TrackingSpec(), description="Where every step is logged, in addition to the status.")
    placement: PlacementSpec = Field(default=PlacementSpec(), description="Where pods may run and how long a gang may wait for room.")
    restart_policy: RestartPolicySpec = Field(default=RestartPolicySpec(), description="When repeated crashes fail the job.")
    image: Image | None = Field(default=None, description="Trainer image; absent = the operator's default.")
    priority: int = Field(
        default=0, ge=-1_000_000, le=1_000_000, description="Jobs with a greater priority are placed first; among equals, the oldest."
    )
    suspend: bool = Field(
        default=False,
        description="True saves the state and deletes the pods; false resumes the job. Leave this field out of manifests that Git applies.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Seconds with pods after which the job fails; time in the queue and suspended time do not count.",
    )
    termination_grace_period_seconds: int = Field(
        default=60,
        ge=5,
        le=3600,
        description="Seconds that a pod has between SIGTERM and SIGKILL; a leaving pod saves its state in this time.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description="Seconds from the end of the job until its pods are deleted; absent = never. The job itself is never deleted.",
    )
