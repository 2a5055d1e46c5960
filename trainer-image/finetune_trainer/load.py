"""Reads safetensors straight into a built model: each rank reads only its own slice of each tensor."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from finetune_trainer.model_files import files_by_tensor, refused

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_PARTS_OF_A_DECODER = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
_COMPUTED = ".inv_freq"  # older files hold frequencies, which are computed


@torch.no_grad()
def load_base(model: nn.Module, folder: Path, *, model_uri: str, beat: Callable[[], None]) -> None:
    """Fill every frozen parameter. Names are those of transformers; ".base" of a wrapped linear is left out.

    Raises TrainingError naming the file or the tensor: missing, of another shape than the config says, not finite, or without a place
    in the model, and a second head where the config ties it to the embedding.
    """
    files = files_by_tensor(folder, model_uri=model_uri)
    wanted = {name.replace(".base.", "."): parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    _refuse_what_has_no_place(files.keys() - wanted.keys(), model_uri)
    by_file: dict[Path, list[str]] = {}
    for name in sorted(wanted):
        if name not in files:
            raise refused(model_uri, f"tensor {name} is in none of its files")
        by_file.setdefault(files[name], []).append(name)
    for file, names in by_file.items():
        try:
            _load_file(file, {name: wanted[name] for name in names}, model_uri, beat)
        except (SafetensorError, OSError) as error:
            raise refused(model_uri, f"{file.name} cannot be read: {error}") from None
    if _HEAD in files and _HEAD not in wanted:
        _refuse_another_head(files[_HEAD], wanted[_EMBEDDING], model_uri)


def _load_file(file: Path, parameters: dict[str, nn.Parameter], model_uri: str, beat: Callable[[], None]) -> None:
    with safe_open(file, framework="pt") as tensors:
        for name, parameter in parameters.items():
            beat()
            stored = tensors.get_slice(name)
            if stored.get_dtype() not in _FLOATS:
                kinds = ", ".join(sorted(_FLOATS))
                raise refused(model_uri, f"tensor {name} is of the type {stored.get_dtype()}; wanted one of {kinds}, not quantised")
            if tuple(stored.get_shape()) != tuple(parameter.shape):
                shapes = f"{tuple(stored.get_shape())}, its config.json wants {tuple(parameter.shape)}"
                raise refused(model_uri, f"tensor {name} has the shape {shapes}")
            first, last, local = _own_rows(parameter)
            if last > first:
                local.copy_(stored[first:last])
                _refuse_not_finite(local, name, file, model_uri)


def _refuse_not_finite(local: torch.Tensor, name: str, file: Path, model_uri: str) -> None:
    # One pass without memory of its own: a sum is finite only if all its terms are.
    if bool(torch.isfinite(local.sum(dtype=torch.float32))) or bool(torch.isfinite(local).all()):
        return
    count = int((~torch.isfinite(local)).sum())
    what = f"tensor {name} in {file.name} holds {count} values that are not finite (NaN or infinite)"
    raise refused(model_uri, f"{what}; a conversion went wrong: convert or download the model again")


def _refuse_what_has_no_place(names: set[str], model_uri: str) -> None:
    """A tensor of the decoder that its config has no place for: another model would be trained than the one that was meant."""
    lost = sorted(name for name in names if name.startswith(_PARTS_OF_A_DECODER) and not name.endswith(_COMPUTED) and name != _HEAD)
    if lost:
        what = f"its files hold {len(lost)} tensors that its config.json has no place for, such as {lost[0][:120]}"
        raise refused(model_uri, f"{what}; put the config.json there that belongs to these weights")


def _refuse_another_head(file: Path, embedding: nn.Parameter, model_uri: str) -> None:
    """Serving would have to choose: transformers takes the second head, others the embedding. Equal bytes are no second head."""
    first, last, local = _own_rows(embedding)
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice(_HEAD)
        is_equal = tuple(stored.get_shape()) == tuple(embedding.shape) and (
            last <= first or torch.equal(stored[first:last].to(local.device, local.dtype), local)
        )
    if not is_equal:
        what = f"its config.json ties the head to the embedding (tie_word_embeddings), but {file.name} holds another {_HEAD}"
        raise refused(model_uri, f"{what}; set tie_word_embeddings to false if the head is its own, or take {_HEAD} out of the files")


def _own_rows(parameter: nn.Parameter) -> tuple[int, int, torch.Tensor]:
    """Rows [first, last) of dimension 0 that live here, and their memory. FSDP2 cuts dimension 0 into chunks of equal size."""
    num_rows = parameter.shape[0]
    if not isinstance(parameter, DTensor):
        return 0, num_rows, parameter.data
    mesh = parameter.device_mesh
    chunk = -(-num_rows // mesh.size())
    first = min(chunk * mesh.get_local_rank(), num_rows)
    return first, min(first + chunk, num_rows), parameter.to_local()
