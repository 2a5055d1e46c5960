"""The processes below one of ours, read from /proc, and their certain end. Linux only.

Orphans are adopted by the nearest subreaper, so whatever a worker starts stays below the agent, in any session or group.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune_contract.times import PROCESS_POLL_SECONDS

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class ProcEntry:
    """One process as /proc/PID/stat shows it."""

    pid: int
    parent: int
    session: int
    is_zombie: bool


def read_processes() -> tuple[ProcEntry, ...]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                found.append(_parse_stat(int(name), Path(f"/proc/{name}/stat").read_text()))
    return tuple(found)


def _parse_stat(pid: int, text: str) -> ProcEntry:
    state, parent, _, session = text.rpartition(")")[2].split()[:4]
    return ProcEntry(pid=pid, parent=int(parent), session=int(session), is_zombie=state in {"Z", "X"})


def below(root: int, *, spared: Iterable[int] = (), spared_trees: Iterable[int] = ()) -> tuple[ProcEntry, ...]:
    """Descendants of `root`, without `spared` (their children count) and without `spared_trees` (their children do not)."""
    children: dict[int, list[ProcEntry]] = {}
    for entry in read_processes():
        children.setdefault(entry.parent, []).append(entry)
    found: list[ProcEntry] = []
    waiting, left_out = [root], set(spared_trees)
    while waiting:
        for entry in children.get(waiting.pop(), []):
            if entry.pid not in left_out:
                waiting.append(entry.pid)
                found.append(entry)
    kept = set(spared)
    return tuple(entry for entry in found if entry.pid not in kept)


async def end_all_below(
    root: int, *, spared: Iterable[int] = (), spared_trees: Iterable[int] = (), deadline_seconds: float = 30
) -> tuple[int, ...]:
    """SIGKILL until nothing lives there; zombies that `root` (the caller) adopted are reaped. Returns what outlived the deadline."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + deadline_seconds
    while entries := below(root, spared=spared, spared_trees=spared_trees):
        for entry in entries:
            _kill_and_reap(entry)
        if clock() > deadline:
            return tuple(entry.pid for entry in entries)
        await asyncio.sleep(PROCESS_POLL_SECONDS)
    return ()


def _kill_and_reap(entry: ProcEntry) -> None:
    with contextlib.suppress(ProcessLookupError):
        if not entry.is_zombie:
            os.kill(entry.pid, signal.SIGKILL)
    if entry.parent == os.getpid():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(entry.pid, os.WNOHANG)


def die_with_parent(expected_parent: int) -> None:
    """SIGKILL for this process when its parent ends. Ends it at once if that has already happened."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != expected_parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Make this process the one that orphans below it are given to (PID 1 is that anyway)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
