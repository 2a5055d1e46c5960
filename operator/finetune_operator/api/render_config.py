"""The resolved configuration of a job, as its members read it. Pure; no default is decided here."""

from datetime import UTC, date, datetime

from finetune_contract.config import (
    CONTRACT_VERSION,
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
from finetune_operator.api.job import FineTuneJob


def render_config(job: FineTuneJob) -> JobConfig:
    """The contract of this job; holds no secret."""
    spec, metadata = job.spec, job.metadata
    return JobConfig(
        contract_version=CONTRACT_VERSION,
        job=JobIdentity(name=metadata.name, namespace=metadata.namespace, uid=metadata.uid, created=_day_of(metadata.creation_timestamp)),
        model=ModelConfig(**spec.model.model_dump()),
        dataset=DatasetConfig(**spec.dataset.model_dump()),
        adapter=AdapterConfig(**spec.adapter.model_dump()),
        training=TrainingConfig(**spec.training.model_dump()),
        gang=GangConfig(
            min_nodes=spec.resources.nodes.min,
            max_nodes=spec.resources.nodes.max,
            processes_per_node=spec.resources.processes_per_node,
        ),
        checkpoint=CheckpointConfig(**spec.checkpoint.model_dump()),
        output=OutputConfig(**spec.output.model_dump()),
        storage=StorageConfig(endpoint=spec.storage.endpoint, region=spec.storage.region),
        tracking=TrackingConfig(**spec.tracking.model_dump(exclude={"secret_name"})),
    )


def _day_of(moment: datetime | None) -> date | None:
    return None if moment is None else moment.astimezone(UTC).date()
