"""Which files of a listing are the rows that a place means: one file, the files of a folder, or those that a pattern names. Pure.

Names are relative to what was listed. Files follow each other by name; nothing below a folder of the folder is taken.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from finetune_agent.preparing.digests import OWN_PREFIX
from finetune_agent.stores.object_store import StoreRefused
from finetune_contract.places import is_pattern
from finetune_contract.plurals import counted

ROW_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".parquet", ".json", ".json.gz")
MAX_FILES = 10_000
_SHOWN = 5
_TRAIN = re.compile(r"train([-._].*)?")
# Files that describe a data set, beside its rows.
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "metadata.json", "package.json"}


def is_row_file(name: str) -> bool:
    """By its name only; a file that is named by itself may have any."""
    last = name.rpartition("/")[2]
    return last.endswith(ROW_SUFFIXES) and not last.startswith((".", "_")) and last not in _NO_ROWS


def _is_ours(name: str) -> bool:
    """What this program writes beside rows; somebody else's of that name is never taken for it."""
    return name.rpartition("/")[2].startswith(OWN_PREFIX)


def choose_files(names: Sequence[str], pattern: str, *, uri: str) -> tuple[str, ...]:
    """Those of a folder (`pattern` "") or those that match `pattern`, sorted. Raises StoreRefused naming what is there."""
    plain = sorted(name for name in names if "/" not in name and not _is_ours(name))
    # A pattern decides by itself which files are rows.
    found = [name for name in plain if fnmatchcase(name, pattern)] if pattern else [name for name in plain if is_row_file(name)]
    return _bounded(found, names, uri=uri)


def choose_of_repository(names: Sequence[str], inside: str, *, uri: str) -> tuple[str, ...]:
    """Paths in a data set of a hub: `inside` is a file, a folder, a pattern, or "" for the training split."""
    names = [name for name in names if not _is_ours(name)]
    if inside in names:
        return (inside,)
    if inside:
        folder, _, pattern = inside.rpartition("/") if is_pattern(inside) else (inside, "", "")
        prefix = f"{folder}/" if folder else ""
        below = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return tuple(prefix + name for name in choose_files(below, pattern, uri=uri))
    rows = sorted(name for name in names if is_row_file(name))
    if any(not name.endswith((".json", ".json.gz")) for name in rows):  # JSON beside JSON Lines or parquet describes them
        rows = [name for name in rows if not name.endswith((".json", ".json.gz"))]
    train = [name for name in rows if _is_train(name)]
    chosen = rows if len(rows) == 1 else train
    if len({name.rpartition("/")[0] for name in chosen}) > 1 or (not chosen and rows):
        shown = ", ".join(rows[:_SHOWN]) + (", .." if len(rows) > _SHOWN else "")
        example = f"{uri}/{(train or rows)[0]}"
        raise StoreRefused(
            f"{uri} holds {counted(len(rows), 'file')} of rows ({shown}) and does not say which to train on; "
            f"name a file, a folder or a pattern, as in {example}"
        )
    return _bounded(chosen, names, uri=uri)


def _is_train(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return _TRAIN.fullmatch(last) is not None or folder.rpartition("/")[2] == "train"


def _bounded(found: list[str], names: Sequence[str], *, uri: str) -> tuple[str, ...]:
    if not found:
        shown = ", ".join(sorted(names)[:_SHOWN]) + (", .." if len(names) > _SHOWN else "")
        what = f"it holds {shown}" if names else "it is empty, or it does not exist"
        raise StoreRefused(f"{uri} holds no file of rows: {what}; wanted files that end in {', '.join(ROW_SUFFIXES)}")
    if len(found) > MAX_FILES:
        raise StoreRefused(f"{uri} holds {len(found)} files of rows, at most {MAX_FILES} are read; put the rows into fewer files")
    return tuple(found)
