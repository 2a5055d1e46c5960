"""The digest of what decides the bytes of an adapter, over fields that are named here one by one. A digest once written stays valid.

FIRST    counted since contract 2; with a field renamed or reordered every digest changes, so neither may happen
LATER    fields added since, each with the default that means "as before": at the default it is left out of the digest
APART    fields that do not decide a byte; a test wants every field of these sections in exactly one of the three
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

FIRST: dict[str, tuple[str, ...]] = {
    "model": ("uri", "revision"),
    "dataset": ("uri", "eval_uri", "eval_fraction", "format"),
    "adapter": ("rank", "alpha", "dropout", "target_modules"),
    "training": (
        "epochs",
        "max_steps",
        "global_batch_size",
        "max_sequence_length",
        "packing",
        "learning_rate",
        "schedule",
        "warmup_ratio",
        "weight_decay",
        "max_grad_norm",
        "train_on",
        "precision",
        "chat_template",
        "seed",
    ),
}
LATER: dict[str, Any] = {  # "section.field": its default
    "dataset.columns": None,
    "training.adam_beta1": 0.9,
    "training.adam_beta2": 0.999,
    "training.adam_epsilon": 1e-8,
}
APART = frozenset({"training.gradient_checkpointing", "training.eval_every_steps", "training.shard_across"})


def accepted_digests(config: BaseModel) -> tuple[str, ...]:
    """SHA-256 (hex) of a JobConfig: the one to write first, then the one that contract 1 wrote, where that could say the same."""
    told = config.model_dump(mode="json")
    sections: dict[str, dict[str, Any]] = {name: {field: told[name][field] for field in fields} for name, fields in FIRST.items()}
    later = {path: _value(told, path) for path, default in LATER.items() if _value(told, path) != default}
    for path, value in later.items():
        section, field = path.split(".")
        sections[section][field] = value
    present = _sha256(json.dumps(sections, sort_keys=True, separators=(",", ":"), ensure_ascii=True))
    return (present,) if later else (present, _digest_of_contract_1(config))


def _digest_of_contract_1(config: BaseModel) -> str:
    """It counted every field that these sections had then, in their order and as pydantic spells them."""
    fields = {name: set(first) for name, first in FIRST.items()}
    fields["training"] |= {"gradient_checkpointing", "eval_every_steps", "shard_across"}
    return _sha256(config.model_dump_json(include=fields))


def _value(told: dict[str, Any], path: str) -> Any:
    section, field = path.split(".")
    return told[section][field]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
