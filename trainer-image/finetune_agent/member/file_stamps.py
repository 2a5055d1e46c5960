"""Model and data as they were when they were hashed: a file that is gone or was written since is found before it is trained on.

It compares times and sizes, for hashing 16 GB before each formation would cost more than a formation.
"""

from collections.abc import Mapping
from pathlib import Path

from finetune_agent.preparing.messages import ReadyInputs
from finetune_agent.preparing.model_files import model_files

FileStamps = Mapping[Path, tuple[int, int]]


def take_stamps(inputs: ReadyInputs) -> FileStamps:
    """Size and time of change of each file."""
    model = [path for path in model_files(Path(inputs.model_dir)).values() if path.is_file()]
    data = [Path(file) for file in (*inputs.dataset_files, *inputs.eval_files)]
    return {path: _look(path) for path in (*model, *data)}


def find_changed(stamps: FileStamps) -> str | None:
    """What is wrong with the first file that is not as it was; None if all are."""
    for path, stamp in stamps.items():
        try:
            found = _look(path)
        except OSError as error:
            return f"{path} cannot be read any more: {error.strerror}"
        if found != stamp:
            return f"{path} was changed after it was checked"
    return None


def _look(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
