"""Daemons of the harness by name: started inside our control group, recorded with pid and start time, ended by exactly that record."""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from e2e.harness import cgroups
from e2e.harness.shell import NotReached, wait_until

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN_LOG_LINES = 15


@dataclass(frozen=True)
class Processes:
    """Daemons with records and logs in `folder`. The records are files, so that another process of the harness finds them too."""

    folder: Path
    programs: Path
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str | Path], *, group: str = "control", env: Mapping[str, str] | None = None) -> int:
        """Start a daemon in a session of its own, its output in a log. Returns its pid."""
        log, record = self._log(name), self._record(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        record.parent.mkdir(exist_ok=True)
        words = [*cgroups.entering(group), *(str(word) for word in command)]
        # Nothing of the caller's environment: proxies and certificates of the host are none of the cluster's business.
        environment = {"PATH": f"{self.programs}:{SYSTEM_PATH}", "HOME": str(self.folder), **(env or {})}
        with log.open("ab") as output:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )
        self._children[name] = child
        record.write_text(json.dumps({"pid": child.pid, "start_time": start_time(child.pid)}))
        return child.pid

    def pid(self, name: str) -> int | None:
        """The pid of a daemon that runs; None if it was not started or has ended."""
        child = self._children.get(name)
        if child is not None:
            child.poll()  # an ended child must be reaped, or it looks alive
        try:
            record = json.loads(self._record(name).read_text())
        except FileNotFoundError:
            return None
        pid: int = record["pid"]
        return pid if record["start_time"] == start_time(pid) else None

    def require(self, name: str) -> int:
        """The pid of a daemon that must run. Raises NotReached with the end of its log."""
        pid = self.pid(name)
        if pid is None:
            raise NotReached(f"{name} does not run; its log ends with\n{self.log_tail(name)}")
        return pid

    def log_tail(self, name: str) -> str:
        log = self._log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["(no log)"]
        return "\n".join(lines[-SHOWN_LOG_LINES:])

    def stop(self, name: str, *, gracefully: bool = False) -> None:
        """End one daemon and wait for its end; not running is fine."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGTERM if gracefully else signal.SIGKILL)
            wait_until(f"the end of {name}", lambda: self.pid(name) is None, deadline_seconds=20, every_seconds=0.02)
        self._record(name).unlink(missing_ok=True)

    def restart(self, name: str) -> int:
        """End a daemon of the control plane at once and start it again as it was. Returns its new pid."""
        command = Path(f"/proc/{self.require(name)}/cmdline").read_text().split("\0")[:-1]
        self.stop(name)
        return self.start(name, command)

    def stop_all(self) -> None:
        """End every process below our control group, also those that no record names, and reap our children."""
        cgroups.kill()
        for child in self._children.values():
            child.wait()
        self._children.clear()

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def _record(self, name: str) -> Path:
        return self.folder / "processes" / f"{name}.json"


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a live process: with the pid it names one process for ever. None: ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in {"Z", "X"} and _num_threads(pid) <= 1 else int(fields[18])


def _num_threads(pid: int) -> int:
    """A killed process whose first thread has ended holds its ports until the others have."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def first_process(pids: Iterable[int]) -> int:
    """The one of a pod's processes that is process 1 of its container. Raises LookupError."""
    for pid in pids:
        with suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if status["NSpid"].split()[1:] == ["1"] and status["Name"].strip() != "pause":
                return pid
    raise LookupError(f"none of the processes {tuple(pids)} is the first of a container")
