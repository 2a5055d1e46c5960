"""Writes the adapter in peft's format: loadable by peft and vLLM, the same bytes for the same weights."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from finetune_contract.commits import ADAPTER_WEIGHTS_NAME
from finetune_contract.config import JobConfig

CONFIG_NAME = "adapter_config.json"
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_HUB = "hf://"


def export_adapter(folder: Path, *, config: JobConfig, adapters: dict[str, nn.Parameter], kinds: tuple[str, ...], model_dir: Path) -> None:
    """Replace the folder's content by weights, config and the tokenizer that the rows were made with."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {_peft_name(name): parameter.detach().cpu().contiguous().clone() for name, parameter in adapters.items()}
    save_file(weights, folder / ADAPTER_WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(_adapter_config(config, kinds), indent=2, sort_keys=True) + "\n")
    for name in _TOKENIZER_FILES:
        if (model_dir / name).exists():
            shutil.copyfile(model_dir / name, folder / name)
    if config.training.chat_template is not None:
        (folder / "chat_template.jinja").write_text(config.training.chat_template)


def state_digest(weights_P: torch.Tensor) -> str:
    """SHA-256 (hex) over the flat fp32 weights."""
    return hashlib.sha256(weights_P.detach().cpu().numpy().tobytes()).hexdigest()


def _peft_name(name: str) -> str:
    return f"base_model.model.{name}.weight"


def _adapter_config(config: JobConfig, kinds: tuple[str, ...]) -> dict[str, Any]:
    adapter, model = config.adapter, config.model
    alpha = int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha
    return {
        "base_model_name_or_path": model.uri.removeprefix(_HUB),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": adapter.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": adapter.rank,
        "revision": model.revision,
        "target_modules": list(kinds),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
