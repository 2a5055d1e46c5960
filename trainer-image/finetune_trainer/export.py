"""Writes the adapter in peft's format: loadable by peft and vLLM, the same bytes for the same weights."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer

from finetune_contract.adapter_files import ADAPTER_CONFIG_NAME, TOKENIZER_CONFIG_NAME, TOKENIZER_FILES
from finetune_contract.commits import ADAPTER_WEIGHTS_NAME
from finetune_contract.config import JobConfig
from finetune_contract.places import PVC_MOUNT_ROOT, Scheme, parse_place
from finetune_trainer.model_files import read_tokenizer_file
from finetune_trainer.tokenise import load_tokenizer

_HUB = "hf://"


def export_adapter(
    folder: Path,
    *,
    config: JobConfig,
    adapters: dict[str, nn.Parameter],
    kinds: tuple[str, ...],
    model_dir: Path,
    revision: str | None = None,
) -> None:
    """Replace the folder's content by weights, config and the tokenizer that the rows were made with.

    `revision` is the commit of the base that was trained on, None for one that is on no hub.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {_peft_name(name): parameter.detach().cpu().contiguous().clone() for name, parameter in adapters.items()}
    save_file(weights, folder / ADAPTER_WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG_NAME).write_text(json.dumps(_adapter_config(config, kinds, revision), indent=2, sort_keys=True) + "\n")
    for name in TOKENIZER_FILES:
        if (model_dir / name).exists():
            (folder / name).write_bytes(read_tokenizer_file(model_dir, name, model_uri=config.model.uri))
    if config.training.chat_template is not None:
        (folder / "chat_template.jinja").write_text(config.training.chat_template)
    _name_the_class(folder, type(load_tokenizer(model_dir, model_uri=config.model.uri)).__name__)


def _name_the_class(folder: Path, trained_with: str) -> None:
    """Beside some models' config.json transformers takes another class than the tokenizer's own files name, and splits words by it.

    The adapter has no config.json, so its tokenizer has to name the class itself (transformers, AutoTokenizer.from_pretrained).
    """
    try:
        alone = type(AutoTokenizer.from_pretrained(folder, local_files_only=True)).__name__
    except Exception:  # noqa: BLE001 - its files name no class, or one that cannot be had; looking must not end a run that has trained
        alone = None
    if alone != trained_with:
        file = folder / TOKENIZER_CONFIG_NAME
        named = json.loads(file.read_text()) | {"tokenizer_class": trained_with}
        file.write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n")


def state_digest(weights_P: torch.Tensor) -> str:
    """SHA-256 (hex) over the flat fp32 weights."""
    return hashlib.sha256(weights_P.detach().cpu().numpy().tobytes()).hexdigest()


def _peft_name(name: str) -> str:
    return f"base_model.model.{name}.weight"


def _base_name(uri: str) -> str:
    """As peft and transformers look for it: a name on the hub, or a folder; a claim is one where it is mounted as in a member.

    A bucket is no place of theirs: it stays a URI.
    """
    place = parse_place(uri)
    if place.scheme is Scheme.HF:
        return f"{place.container}/{place.path}"
    if place.scheme is Scheme.PVC:
        return f"{PVC_MOUNT_ROOT}/{place.container}/{place.path}".rstrip("/")
    return place.path if place.scheme is Scheme.FILE else uri


def _adapter_config(config: JobConfig, kinds: tuple[str, ...], revision: str | None) -> dict[str, Any]:
    adapter, model = config.adapter, config.model
    alpha = int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha
    return {
        "base_model_name_or_path": _base_name(model.uri),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": adapter.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": adapter.rank,
        "revision": (revision or model.revision) if model.uri.startswith(_HUB) else None,
        "target_modules": list(kinds),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
