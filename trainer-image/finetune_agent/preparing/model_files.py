"""Which files make a model, by their names."""

from pathlib import Path

# What makes a model: weights, configuration, tokenizer. Other formats of the same weights are neither fetched, hashed nor opened.
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja")
_MODEL_TEXTS = frozenset({"merges.txt", "vocab.txt", "tokenizer.model"})
_TEMPLATES = "additional_chat_templates/"


def is_model_file(name: str) -> bool:
    """Whether the file of this relative name makes the model. No other name is ever joined to a folder."""
    inside, _, template = name.rpartition(_TEMPLATES)
    if inside == "" and template != name:
        return template.endswith(".jinja") and _is_plain(template)
    return _is_plain(name) and (name.endswith(_MODEL_SUFFIXES) or name in _MODEL_TEXTS)


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model in a folder, by relative name, sorted; also links whose target is not there."""
    paths = (*folder.glob("*"), *(folder / _TEMPLATES).glob("*"))
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    return {name: path for name, path in found.items() if is_model_file(name)}


def _is_plain(name: str) -> bool:
    return not name.startswith(".") and "/" not in name and "\\" not in name and name.isprintable()
