"""Names that strangers chose, joined to folders of ours: what leaves the folder is refused, in writing or by a symbolic link.

Keys of a bucket, entries of an index, paths in a claim: all are joined here and nowhere else.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from finetune_contract.keys import LeavesFolder, check_key

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"  # a cache of huggingface_hub: snapshots/COMMIT/NAME is a link to blobs/DIGEST


def join(folder: Path, key: str) -> Path:
    """`folder / key`, checked as text only. Raises LeavesFolder."""
    return folder / check_key(key)


def resolve_inside(root: Path, path: Path) -> Path:
    """`path` without symbolic links. Raises LeavesFolder where one leads out of `root`; what does not exist yet may be named."""
    own, found = root.resolve(), _resolve(path)
    if found != own and own not in found.parents:
        raise LeavesFolder(f"{path} is, or lies behind, a symbolic link out of {root}; put a copy there instead of the link")
    return found


def open_inside(root: Path, path: Path) -> BinaryIO:
    """A regular file below `root`, open for reading; judged after opening, so that no link can be put there in between.

    Raises LeavesFolder and OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LeavesFolder(f"{path} is not a regular file")
        resolve_inside(root, Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def home_of_links(folder: Path) -> Path:
    """Where links of a model folder may lead: the folder itself, or the cache of huggingface_hub that the folder is a part of."""
    real = _resolve(folder)
    is_cached = real.parent.name == _SNAPSHOTS and (real.parent.parent / _BLOBS).is_dir()
    return real.parent.parent if is_cached else real


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise LeavesFolder(f"{path} cannot be followed: its symbolic links form a loop") from error
