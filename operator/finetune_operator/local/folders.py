"""Where one local run keeps its files. Slots lie in memory where the machine has a memory-backed folder.

<work>/status.yaml  events.log        for people
<work>/logs/<member>.log              what agents and workers say
<work>/tracking/                      what waits for an upload by a tracker; only if a job reports to one
<work>/members/<member>/              token, last words, caches; removed at the end
"""

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

MEMORY_FOLDER = Path("/dev/shm")


class FolderInUse(Exception):
    """Another run works in this folder at this moment."""


@dataclass(frozen=True, kw_only=True)
class RunFolders:
    """`work` is the run's own; `state` is private, and in memory if that can be."""

    work: Path
    state: Path

    @property
    def config(self) -> Path:
        return self.work / "config.json"

    @property
    def channel(self) -> Path:
        return self.work / "channel"

    @property
    def job(self) -> Path:
        return self.work / "job.json"

    @property
    def status(self) -> Path:
        return self.work / "status.yaml"

    @property
    def events(self) -> Path:
        return self.work / "events.log"

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    @property
    def tracking(self) -> Path:
        return self.work / "tracking"

    @property
    def members(self) -> Path:
        return self.work / "members"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def member(self, name: str) -> Path:
        """The folder of one member; made if absent, closed to others."""
        folder = self.members / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def remove_scratch(self) -> None:
        """Remove what only members need; status, events and logs stay."""
        for folder in (self.state, self.members, self.channel):
            shutil.rmtree(folder, ignore_errors=True)


def make_folders(work: Path) -> RunFolders:
    """Make and claim the folders of one run. Raises FolderInUse, and OSError where `work` cannot be written."""
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    _claim(work / "lock")
    shutil.rmtree(work / "members", ignore_errors=True)  # of a run that was killed
    for name in ("logs", "channel", "members"):
        (work / name).mkdir(exist_ok=True)
    in_memory = MEMORY_FOLDER.is_dir() and os.access(MEMORY_FOLDER, os.W_OK | os.X_OK)
    parent = MEMORY_FOLDER if in_memory else work
    return RunFolders(work=work, state=Path(tempfile.mkdtemp(prefix="finetune-", dir=parent)))


def _claim(lock: Path) -> None:
    """Hold a lock until this process ends, whatever ends it; the descriptor is not handed to children."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FolderInUse("another run uses it") from None
