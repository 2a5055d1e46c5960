"""A field cannot be lost on its way: spec -> contract -> trainer, and progress -> status -> metrics."""

import pytest
from pydantic import BaseModel

from finetune_contract.config import (
    CONTRACT_VERSION,
    OLDEST_CONTRACT_VERSION,
    AdapterConfig,
    CheckpointConfig,
    DatasetConfig,
    ModelConfig,
    OutputConfig,
    StorageConfig,
    TrackingConfig,
    TrainingConfig,
    speak_together,
)
from finetune_contract.messages import Hello
from finetune_contract.orders import Overrides
from finetune_contract.reports import Progress, SlowRank
from finetune_contract.values import changed
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import ProgressEntry, StragglerEntry
from finetune_operator.job_values import Reading

# Fields of one side only, each with its reason.
ONLY_IN_SPEC = {
    "storage.secret_name": "names a Secret that the pod mounts",
    "storage.service_account_name": "is the pod's",
    "tracking.secret_name": "names a Secret that the pod mounts",
}
ONLY_IN_CONTRACT = {"training.adam_beta1", "training.adam_beta2", "training.adam_epsilon"}  # every job trains with the defaults
NOT_IN_STATUS = {"type", "run", "formation", "slowest"}  # the kind of message; the job itself; status.formation; status.progress.straggler
NOT_IN_METRICS = {"type", "run", "formation", "slowest", "epoch", "first_loss"}  # follow from the step, or never move


@pytest.mark.parametrize(
    ("section", "contract"),
    [
        ("model", ModelConfig),
        ("dataset", DatasetConfig),
        ("adapter", AdapterConfig),
        ("training", TrainingConfig),
        ("checkpoint", CheckpointConfig),
        ("output", OutputConfig),
        ("storage", StorageConfig),
        ("tracking", TrackingConfig),
    ],
)
def test_every_field_of_the_spec_reaches_the_trainer(section: str, contract: type[BaseModel]) -> None:
    spec = FineTuneJobSpec.model_fields[section].annotation
    only_in_spec = {path.split(".")[1] for path in ONLY_IN_SPEC if path.startswith(f"{section}.")}
    only_in_contract = {path.split(".")[1] for path in ONLY_IN_CONTRACT if path.startswith(f"{section}.")}
    assert set(spec.model_fields) - only_in_spec == set(contract.model_fields) - only_in_contract


def test_every_number_of_progress_reaches_status_and_metrics() -> None:
    told = set(Progress.model_fields)
    assert told - NOT_IN_STATUS == set(ProgressEntry.model_fields) - {"straggler", "tokens_processed", "updated_at"}
    assert told - NOT_IN_METRICS <= set(Reading.__dataclass_fields__)
    assert set(SlowRank.model_fields) == set(StragglerEntry.model_fields) - {"member"}


@pytest.mark.parametrize(
    ("version", "oldest", "is_understood"),
    [
        (CONTRACT_VERSION, OLDEST_CONTRACT_VERSION, True),
        (CONTRACT_VERSION - 1, CONTRACT_VERSION - 1, True),
        (CONTRACT_VERSION + 1, CONTRACT_VERSION, True),
        (CONTRACT_VERSION + 2, CONTRACT_VERSION + 1, False),
    ],
)
def test_this_contract_and_the_one_before_talk(version, oldest, is_understood) -> None:
    assert speak_together(version, oldest) is is_understood


def test_a_hello_of_this_contract_is_one_of_contract_1_too() -> None:
    """Fields that contract 1 wanted are still sent, so that an operator that was rolled back takes it."""
    wanted_by_1 = {"member_uid", "job_uid", "address", "port", "num_devices", "contract_version", "oldest_contract_version", "phase"}
    assert wanted_by_1 | {"formation", "term"} <= set(Hello.model_fields)


def test_a_change_of_a_value_knows_its_fields():
    before = Overrides(pack_tokens=7)
    assert changed(before, gradient_checkpointing=True) == Overrides(pack_tokens=7, gradient_checkpointing=True)
    assert before == Overrides(pack_tokens=7)
    with pytest.raises(TypeError, match="Overrides has no field pack_token"):
        changed(before, pack_token=8)
