"""The words of other tools are told with ours."""

import pytest

from finetune_operator.api.other_tools import _SENTENCES, counterpart_of
from finetune_operator.api.rules import validate

SPEC = {
    "model": {"uri": "hf://Qwen/Qwen3-8B"},
    "dataset": {"uri": "s3://data/rows.jsonl"},
    "checkpoint": {"uri": "s3://checkpoints/x"},
    "output": {"uri": "s3://adapters/x"},
}
WORDS = [
    ("adapter", "r", "adapter.rank"),
    ("adapter", "lora_r", "adapter.rank"),
    ("adapter", "lora_alpha", "adapter.alpha"),
    ("adapter", "lora_dropout", "adapter.dropout"),
    ("adapter", "lora_target_modules", "adapter.targetModules"),
    ("adapter", "modules_to_save", "leave the field out"),
    ("training", "max_seq_length", "training.maxSequenceLength"),
    ("training", "cutoff_len", "training.maxSequenceLength"),
    ("training", "sequence_len", "training.maxSequenceLength"),
    ("training", "bf16", "training.precision"),
    ("training", "gradient_accumulation_steps", "training.globalBatchSize"),
    ("training", "per_device_train_batch_size", "x gradient_accumulation_steps x"),
    ("training", "micro_batch_size", "training.globalBatchSize"),
    ("training", "optim", "AdamW"),
    ("training", "num_train_epochs", "training.epochs"),
    ("training", "lr_scheduler_type", "training.schedule"),
    ("training", "warmup_steps", "training.warmupRatio"),
    ("training", "sample_packing", "training.packing"),
    ("training", "eval_steps", "training.evalEverySteps"),
    ("training", "save_steps", "checkpoint.minIntervalSeconds"),
    ("training", "load_in_4bit", "QLoRA is not supported"),
    ("training", "flash_attention", "leave the field out"),
    ("training", "deepspeed", "training.shardAcross"),
    ("model", "model_name_or_path", "model.uri"),
    ("dataset", "val_set_size", "dataset.evalFraction"),
    ("dataset", "split", "hf://OWNER/NAME/FILE"),
    ("resources", "gpus", "resources.limits"),
    ("model", "token", "HF_TOKEN"),
]


def said(section: str, field: str, value: object = 1) -> str:
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "x"}}
    spec = {**SPEC, section: {**SPEC.get(section, {}), field: value}}
    (error,) = validate({**document, "spec": spec})
    return str(error)


@pytest.mark.parametrize(("section", "field", "ours"), WORDS[:13])
def test_words_of_peft_and_trl(section: str, field: str, ours: str) -> None:
    assert ours in said(section, field)


@pytest.mark.parametrize(("section", "field", "ours"), WORDS[13:])
def test_words_of_trainers(section: str, field: str, ours: str) -> None:
    assert ours in said(section, field)


@pytest.mark.parametrize("word", sorted(_SENTENCES))
def test_every_word_of_the_table_is_told(word: str) -> None:
    assert counterpart_of(word) is not None
    assert said("training", f"{word[:1]}_{word[1:]}") == f"spec.training.{word[:1]}_{word[1:]}: unknown field; {counterpart_of(word)}"


@pytest.mark.parametrize("ours", ["learning_rate", "max_steps", "warmup_ratio", "weight_decay", "global_batch_size"])
def test_our_own_fields_in_snake_case_are_told(ours: str) -> None:
    head, *rest = ours.split("_")
    assert said("training", ours).endswith(f"unknown field; did you mean {head}{''.join(map(str.capitalize, rest))}?")


def test_no_field_of_ours_is_in_the_table() -> None:
    from finetune_operator.api.spec import TrainingSpec

    own = {(field.alias or name).lower() for name, field in TrainingSpec.model_fields.items()}
    assert not own & set(_SENTENCES)
