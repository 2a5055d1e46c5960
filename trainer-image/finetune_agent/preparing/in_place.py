"""Model and rows that lie on this machine already, in a claim or in a folder of a local run: used where they are, never copied."""

from collections.abc import Sequence
from pathlib import Path

from finetune_agent.preparing.digests import Fetched, combine, hash_file
from finetune_agent.preparing.model_files import is_model_file, model_files
from finetune_agent.preparing.row_files import choose_files
from finetune_agent.stores.object_store import StoreRefused
from finetune_agent.stores.open_store import check_inside
from finetune_contract.plurals import counted

_OLD_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")


def model_in_place(folder: Path, uri: str, *, claim: Path | None) -> Fetched:
    """`claim`: what no symbolic link may lead out of. Raises StoreRefused."""
    refuse_no_model(uri, [path.name for path in folder_in_place(folder, uri, claim=claim).iterdir()])
    files = model_files(folder)
    return Fetched(path=folder, sha256=combine({name: hash_file(path) for name, path in files.items() if path.is_file()}))


def folder_in_place(folder: Path, uri: str, *, claim: Path | None) -> Path:
    """The folder of a model, with or without weights. Raises StoreRefused, also for a file that leads out of the claim."""
    if not folder.is_dir():
        raise StoreRefused(f"{uri} is not a folder; wanted one with config.json and *.safetensors")
    if claim is not None:
        for path in model_files(folder).values():
            check_inside(claim, path)
    return folder


def rows_in_place(path: Path, pattern: str, uri: str, *, claim: Path | None) -> Fetched:
    """The file, or the files of the folder `path` that match `pattern` ("": those of rows). Raises StoreRefused."""
    if not path.exists():
        raise StoreRefused(f"{uri} does not exist; wanted a file of rows, a folder of them, or a pattern such as *.jsonl")
    if path.is_file() and not pattern:
        files: tuple[Path, ...] = (path,)
    else:
        names = [entry.name for entry in path.iterdir() if entry.is_file()] if path.is_dir() else []
        files = tuple(path / name for name in choose_files(names, pattern, uri=uri))
    for file in files:
        if claim is not None:
            check_inside(claim, file)
    digests = {file.name: hash_file(file) for file in files}
    sha256 = digests[files[0].name] if len(files) == 1 else combine(digests)
    return Fetched(path=files[0], sha256=sha256, files=files)


def refuse_no_model(uri: str, names: Sequence[str]) -> None:
    """Raises StoreRefused naming what is missing; `names` are all there, model files or not."""
    old = sorted(name for name in names if name.endswith(_OLD_WEIGHTS))
    missing = [
        what
        for what, is_there in (
            ("config.json", "config.json" in names),
            ("*.safetensors", any(is_model_file(name) and name.endswith(".safetensors") for name in names)),
        )
        if not is_there
    ]
    if not missing:
        return
    found = sum(map(is_model_file, names))
    came = counted(found, "model file") if found else "no file of a model"
    advice = "check the uri, or upload the model there"
    if old and "*.safetensors" in missing:
        came += f", weights as {', '.join(old[:3])}"
        advice = (
            "only safetensors are read; convert them where they are trusted: `AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER)`, and put the new folder there with the files of the tokenizer"
        )
    raise StoreRefused(f"there is no model at {uri}: {came}, {' and '.join(missing)} missing; {advice}")
