"""Reads safetensors straight into a built model: each rank reads only its own slice of each tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from finetune_contract.plurals import counted, verb
from finetune_trainer.base_format import load_rows, own_rows
from finetune_trainer.families import Family
from finetune_trainer.lora import bases, parameters_beside_bases
from finetune_trainer.model_files import files_by_tensor, refused

_FLOATS = {"F64", "F32", "F16", "BF16"}
_COMPUTED = ".inv_freq"  # older files hold frequencies, which are computed


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the files goes: its shape there, and what takes the rows of this rank and returns them."""

    shape: tuple[int, ...]
    load: Callable[[Any], torch.Tensor]


@torch.no_grad()
def load_base(model: nn.Module, folder: Path, *, family: Family, model_uri: str, beat: Callable[[], None]) -> None:
    """Fill everything that is frozen. Names are those of transformers' model.

    Raises TrainingError naming the file or the tensor: missing, of another shape than the config says, not finite, or without a place
    in the model, and a second head where the config ties it to the embedding.
    """
    files = files_by_tensor(folder, model_uri=model_uri)
    wanted, head, embedding = _places(model), f"{family.head}.weight", f"{family.embedding}.weight"
    _refuse_what_has_no_place(files.keys() - wanted.keys() - {head}, family, model_uri)
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
    if head in files and head not in wanted:
        _refuse_another_head(files[head], head, model.get_parameter(embedding), model_uri)


def _places(model: nn.Module) -> dict[str, _Place]:
    places = {
        name: _Place(tuple(parameter.shape), partial(load_rows, parameter))
        for name, parameter in parameters_beside_bases(model).items()
        if not parameter.requires_grad
    }
    for path, base in bases(model).items():
        for name, shape in base.stored_shapes().items():
            places[f"{path}.{name}"] = _Place(shape, partial(base.load_slice, name))
    return places


def _load_file(file: Path, places: dict[str, _Place], model_uri: str, beat: Callable[[], None]) -> None:
    with safe_open(file, framework="pt") as tensors:
        for name, place in places.items():
            beat()
            stored = tensors.get_slice(name)
            if stored.get_dtype() not in _FLOATS:
                kinds = ", ".join(sorted(_FLOATS))
                raise refused(model_uri, f"tensor {name} is of the type {stored.get_dtype()}; wanted one of {kinds}, not quantised")
            if tuple(stored.get_shape()) != place.shape:
                raise refused(model_uri, f"tensor {name} has the shape {tuple(stored.get_shape())}, its config.json wants {place.shape}")
            _refuse_not_finite(place.load(stored), name, file, model_uri)


def _refuse_not_finite(local: torch.Tensor, name: str, file: Path, model_uri: str) -> None:
    # One pass without memory of its own: a sum is finite only if all its terms are.
    if bool(torch.isfinite(local.sum(dtype=torch.float32))) or bool(torch.isfinite(local).all()):
        return
    count = int((~torch.isfinite(local)).sum())
    what = f"tensor {name} in {file.name} holds {counted(count, 'value')} that {verb(count, 'is', 'are')} not finite (NaN or infinite)"
    raise refused(model_uri, f"{what}; a conversion went wrong: convert or download the model again")


def _refuse_what_has_no_place(names: set[str], family: Family, model_uri: str) -> None:
    """A tensor of the decoder that its config has no place for: another model would be trained than the one that was meant."""
    decoder = tuple(f"{part}." for part in (family.layers, family.embedding, family.norm, family.head))
    lost = sorted(name for name in names if name.startswith(decoder) and not name.endswith(_COMPUTED))
    if lost:
        what = f"its files hold {counted(len(lost), 'tensor')} that its config.json has no place for, such as {lost[0][:120]}"
        raise refused(model_uri, f"{what}; give the config.json that belongs to these weights")


def _refuse_another_head(file: Path, head: str, embedding: nn.Parameter, model_uri: str) -> None:
    """Serving would have to choose: transformers takes the second head, others the embedding. Equal bytes are no second head."""
    first, last, local = own_rows(embedding)
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice(head)
        is_equal = tuple(stored.get_shape()) == tuple(embedding.shape) and (
            last <= first or torch.equal(stored[first:last].to(local.device, local.dtype), local)
        )
    if not is_equal:
        what = f"its config.json ties the head to the embedding (tie_word_embeddings), but {file.name} holds another {head}"
        raise refused(model_uri, f"{what}; set tie_word_embeddings to false if the head is its own, or take {head} out of the files")
