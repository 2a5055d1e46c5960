"""Reads safetensors straight into a built model: each rank reads only its own slice of each tensor."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from finetune_contract.failures import FailureClass, TrainingError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@torch.no_grad()
def load_base(model: nn.Module, folder: Path, *, model_uri: str, beat: Callable[[], None]) -> None:
    """Fill every frozen parameter. Names are those of transformers; ".base" of a wrapped linear is left out.

    Raises TrainingError naming a tensor that is missing or has another shape than the config says.
    """
    try:
        files = _files_by_tensor(folder, model_uri)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unusable(model_uri, f"its weights cannot be read: {error}") from None
    wanted = {name.replace(".base.", "."): parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    by_file: dict[Path, list[str]] = {}
    for name in sorted(wanted):
        if name not in files:
            raise _unusable(model_uri, f"tensor {name} is in none of its files")
        by_file.setdefault(files[name], []).append(name)
    for file, names in by_file.items():
        try:
            _load_file(file, {name: wanted[name] for name in names}, model_uri, beat)
        except (SafetensorError, OSError) as error:
            raise _unusable(model_uri, f"{file.name} cannot be read: {error}") from None


def _load_file(file: Path, parameters: dict[str, nn.Parameter], model_uri: str, beat: Callable[[], None]) -> None:
    with safe_open(file, framework="pt") as tensors:
        for name, parameter in parameters.items():
            beat()
            stored = tensors.get_slice(name)
            if tuple(stored.get_shape()) != tuple(parameter.shape):
                shapes = f"{tuple(stored.get_shape())}, its config.json wants {tuple(parameter.shape)}"
                raise _unusable(model_uri, f"tensor {name} has the shape {shapes}")
            first, last, local = _own_rows(parameter)
            if last > first:
                local.copy_(stored[first:last])


def _own_rows(parameter: nn.Parameter) -> tuple[int, int, torch.Tensor]:
    """Rows [first, last) of dimension 0 that live here, and their memory. FSDP2 cuts dimension 0 into chunks of equal size."""
    num_rows = parameter.shape[0]
    if not isinstance(parameter, DTensor):
        return 0, num_rows, parameter.data
    mesh = parameter.device_mesh
    chunk = -(-num_rows // mesh.size())
    first = min(chunk * mesh.get_local_rank(), num_rows)
    return first, min(first + chunk, num_rows), parameter.to_local()


def _files_by_tensor(folder: Path, model_uri: str) -> dict[str, Path]:
    index = folder / _INDEX
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        return {name: folder / file for name, file in weight_map.items()}
    single = folder / _SINGLE
    if not single.exists():
        raise _unusable(model_uri, f"neither {_SINGLE} nor {_INDEX} is there; wanted weights in safetensors")
    with safe_open(single, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), single)


def _unusable(model_uri: str, problem: str) -> TrainingError:
    return TrainingError(FailureClass.USER_ERROR, f"spec.model.uri: {model_uri}: {problem}")
