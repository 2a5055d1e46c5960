"""The files of a model folder, judged before anything is built from them: pointers, halves, parts that are missing, links that lead out.

Every refusal names the file and what to do; none repeats what stands in a file.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.inside import home_of_links, join, open_inside, resolve_inside
from finetune_contract.keys import LeavesFolder
from finetune_contract.plurals import counted
from finetune_trainer.columns import kind_of_value

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_POINTER = b"version https://git-lfs"
_MAX_JSON_BYTES = 256 << 20
_MAX_HEADER_BYTES = 100 << 20  # as the safetensors library has it
_ITEM_BYTES = {"F64": 8.0, "F32": 4.0, "F16": 2.0, "BF16": 2.0}
_READ_SUFFIXES = {".json", ".jinja", ".model", ".safetensors", ".txt"}
_TEMPLATES = "additional_chat_templates"
_CONVERT = "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
JsonObject = dict[str, Any]


def refused(model_uri: str, problem: str) -> TrainingError:
    return TrainingError(FailureClass.USER_ERROR, f"spec.model.uri: {model_uri}: {problem}")


@contextmanager
def blaming_the_model(model_uri: str, what: str) -> Iterator[None]:
    """Whatever a library raises about a file of the user is about that file; for libraries only, never around code of ours."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:  # noqa: BLE001 - a border: hostile files raise anything
        raise refused(model_uri, f"{what}: {_short(error)}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how the libraries in Rust end
            raise
        raise refused(model_uri, f"{what}: {_short(error)}") from None


def check_links(folder: Path, *, model_uri: str) -> None:
    """Raises TrainingError for a file of the folder that a library would follow out of it."""
    templates = folder / _TEMPLATES
    try:
        home = home_of_links(folder)
        for path in (templates, *folder.glob("*"), *templates.glob("*")):
            if path.suffix in _READ_SUFFIXES or path == templates:
                resolve_inside(home, path)
    except LeavesFolder as error:
        raise refused(model_uri, str(error)) from None


def read_json_object(folder: Path, name: str, *, model_uri: str) -> JsonObject:
    """A file of the folder that holds one JSON object. Raises TrainingError."""
    data = _read(folder, name, model_uri)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise refused(model_uri, f"its {name} cannot be read: it is not JSON{where}; copy the file again") from None
    if not isinstance(content, dict):
        raise refused(model_uri, f"its {name} cannot be read: wanted a JSON object, got {kind_of_value(content)}")
    return content


def read_tokenizer_file(folder: Path, name: str, *, model_uri: str) -> bytes:
    """The bytes of a tokenizer's file, to be published: a regular file of the folder, and JSON if it is named so."""
    if name.endswith(".json"):
        read_json_object(folder, name, model_uri=model_uri)
    return _read(folder, name, model_uri)


def check_tokenizer_files(folder: Path, *, model_uri: str) -> None:
    """Raises TrainingError if a part is missing, a pointer, no JSON object, or a link out of the folder."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" not in names:
        _refuse_other_vocabulary(names, model_uri)
    if "tokenizer_config.json" not in names:
        raise refused(model_uri, "has no tokenizer_config.json, which says how rows end; copy it from the source of the model")
    for name in sorted(names & {"tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json", "added_tokens.json"}):
        read_json_object(folder, name, model_uri=model_uri)
    for name in sorted(names & {"merges.txt", "chat_template.jinja", "tokenizer.model"}):
        _read(folder, name, model_uri)


def files_by_tensor(folder: Path, *, model_uri: str) -> dict[str, Path]:
    """Where each tensor lies, by the index or the one file. Every file is whole and holds what the index says of it.

    Raises TrainingError naming the file.
    """
    if not _is_there(folder / INDEX_NAME):
        if not _is_there(folder / SINGLE_NAME):
            raise refused(model_uri, f"neither {SINGLE_NAME} nor {INDEX_NAME} is there; wanted weights in safetensors")
        return dict.fromkeys(_tensors_of(folder, SINGLE_NAME, model_uri), folder / SINGLE_NAME)
    weight_map = read_json_object(folder, INDEX_NAME, model_uri=model_uri).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise refused(model_uri, f"its weights cannot be read: {INDEX_NAME} has no weight_map of names to files")
    held: dict[str, frozenset[str]] = {}
    for name, file in sorted(weight_map.items()):
        if file not in held:
            held[file] = _tensors_of(folder, file, model_uri)
        if name not in held[file]:
            raise refused(model_uri, f"{INDEX_NAME} says that {name} is in {file}, where it is not; copy both again")
    return {name: folder / file for name, file in weight_map.items()}


def _tensors_of(folder: Path, name: str, model_uri: str) -> frozenset[str]:
    """Names in the header of one file, whose size is what the header says."""
    if not name.endswith(".safetensors") or "/" in name:
        raise refused(model_uri, f"{INDEX_NAME} names {name[:80]!r}; wanted *.safetensors beside it")
    try:
        join(folder, name)
        with open_inside(home_of_links(folder), folder / name) as file:
            start = file.read(len(_POINTER))
            if start == _POINTER:
                raise _pointer(model_uri, name)
            length = int.from_bytes(start[:8], "little")
            if len(start) < 8 or length > _MAX_HEADER_BYTES:
                raise refused(model_uri, f"its weights cannot be read: {name} is not a safetensors file; copy it again")
            file.seek(0, 2)
            num_bytes = file.tell()
            file.seek(8)
            header = json.loads(file.read(length))
            expected = 8 + length + _data_bytes(header)
    except LeavesFolder as error:
        raise refused(model_uri, str(error)) from None
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "its header is broken"
        raise refused(model_uri, f"its weights cannot be read: {name}: {why}; copy the file again") from None
    if num_bytes != expected:
        what = f"{name} has {counted(num_bytes, 'byte')}, its header wants {expected}"
        raise refused(model_uri, f"its weights cannot be read: {what}: the copy is incomplete; copy the file again")
    return frozenset(tensor for tensor in header if tensor != "__metadata__")


def _data_bytes(header: Mapping[str, Any]) -> int:
    """Bytes after the header. Raises ValueError, TypeError or KeyError for a header that is none."""
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        first, last = tensor["data_offsets"]
        if not (type(first) is int and type(last) is int and 0 <= first <= last):
            raise ValueError(name)
        item = _ITEM_BYTES.get(tensor["dtype"])
        if item is not None and math.prod(tensor["shape"]) * item != last - first:
            raise ValueError(name)
        end = max(end, last)
    return end


def _read(folder: Path, name: str, model_uri: str) -> bytes:
    path = folder / name
    try:
        with open_inside(home_of_links(folder), path) as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except LeavesFolder as error:
        raise refused(model_uri, str(error)) from None
    except OSError as error:
        raise refused(model_uri, f"its {name} cannot be read: {error.strerror or error}") from None
    if data.startswith(_POINTER):
        raise _pointer(model_uri, name)
    if len(data) > _MAX_JSON_BYTES:
        raise refused(model_uri, f"its {name} has more than {_MAX_JSON_BYTES >> 20} MiB; wanted the file of the original model")
    return data


def _pointer(model_uri: str, name: str) -> TrainingError:
    what = f"its {name} is a Git LFS pointer, not the file itself"
    return refused(model_uri, f"{what}; run `git lfs pull` in the clone that it comes from, and copy the folder again")


def _refuse_other_vocabulary(names: set[str], model_uri: str) -> None:
    halves = {"vocab.json", "merges.txt"}
    if halves <= names:
        return
    if names & halves:
        missing, there = sorted(halves - names)[0], sorted(halves & names)[0]
        raise refused(model_uri, f"has no tokenizer: {there} is there, {missing} is missing; copy it from the source of the model")
    if "tokenizer.model" in names:
        what = "has a sentencepiece tokenizer only (tokenizer.model); wanted tokenizer.json"
        raise refused(model_uri, f"{what}: make one where sentencepiece is installed, by {_CONVERT}")
    raise refused(model_uri, "has no tokenizer; wanted tokenizer.json and tokenizer_config.json beside config.json")


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
