"""A file without a name in memory-backed storage: it ends with the last process that has it open, whatever ends that process."""

import os
import tempfile
from pathlib import Path


def open_memory_file(folder: Path) -> int:
    """The descriptor of a new, empty, already unlinked file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=folder)
    os.unlink(name)
    return fd
