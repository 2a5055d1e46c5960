"""Processes of one member as /proc shows them, and their certain end. Linux only; it starts nothing.

A process belongs to a member when its environment names the member's folder: this holds in any session or group and after its
parent has died, because every process below an agent was started with paths in that folder.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.times import PROCESS_POLL_SECONDS

ZYGOTE_MODULE = "finetune_agent.launching"


@dataclass(frozen=True, kw_only=True)
class ProcEntry:
    """One living process."""

    pid: int
    parent: int
    command: str


def processes_in(folder: Path) -> tuple[ProcEntry, ...]:
    """Living processes that belong to `folder`; zombies have no environment any more and are not among them."""
    mark = f"{folder}/".encode()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return tuple(entry for pid in pids if (entry := _read(pid, mark)) is not None)


def _read(pid: int, mark: bytes) -> ProcEntry | None:
    with contextlib.suppress(OSError):  # ended meanwhile, or another user's
        if mark in Path(f"/proc/{pid}/environ").read_bytes():
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            return ProcEntry(pid=pid, parent=int(parent), command=command)
    return None


def worker_pids(agent_pid: int, folder: Path) -> tuple[int, ...]:
    """Training processes of one member: agent -> zygote -> launcher -> worker."""
    entries = processes_in(folder)
    zygotes = {entry.pid for entry in entries if entry.parent == agent_pid and ZYGOTE_MODULE in entry.command}
    launchers = {entry.pid for entry in entries if entry.parent in zygotes}
    return tuple(sorted(entry.pid for entry in entries if entry.parent in launchers))


def kill_all_in(folder: Path, *, deadline_seconds: float = 10.0) -> tuple[int, ...]:
    """SIGKILL until nothing of the folder lives; returns what outlived the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while entries := processes_in(folder):
        if time.monotonic() > deadline:
            return tuple(entry.pid for entry in entries)
        for entry in entries:
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry.pid, signal.SIGKILL)
        time.sleep(PROCESS_POLL_SECONDS)
    return ()
