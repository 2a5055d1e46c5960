"""Control groups below one root of ours: they bound the nodes and name, without any doubt, every process that the harness started.

A process can leave a control group only by an order that nobody gives, so what runs below our root is ours, also after a crash of the
harness and also for containers that no list of ours has seen.
"""

import os
import signal
from functools import partial
from pathlib import Path

from e2e.harness.shell import wait_until

ROOT = "finetune-e2e"
MOUNT = Path("/sys/fs/cgroup")


def hierarchies() -> tuple[Path, ...]:
    """Mount points of version 1, or the one of version 2."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    first_version = tuple(Path(fields[1]) for fields in mounts if fields[2] == "cgroup")
    return first_version or (MOUNT,)


def tracking_root() -> Path:
    """The hierarchy whose membership tells which processes are ours."""
    freezer = MOUNT / "freezer"
    return (freezer if freezer in hierarchies() else hierarchies()[0]) / ROOT


def create(name: str) -> None:
    """Make `name` below our root in every hierarchy, ready to be a kubelet's cgroupRoot."""
    for hierarchy in hierarchies():
        parts = [ROOT, *name.split("/")]
        for depth in range(1, len(parts) + 1):
            folder = hierarchy.joinpath(*parts[:depth])
            folder.mkdir(exist_ok=True)
            _inherit_cpuset(folder)
            _pass_controllers_on(folder.parent)


def entering(name: str) -> tuple[str, ...]:
    """Prefix of a command that puts it, before it starts, into the tracked group `name`."""
    members = tracking_root() / name / "cgroup.procs"
    return ("/bin/sh", "-c", f'echo $$ > "{members}" && exec "$@"', "sh")


def entering_memory_of(pid: int) -> tuple[str, ...]:
    """Prefix of a command that puts it, before it starts, into the group that limits the memory of process `pid`."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    groups = {controllers: group for _, controllers, group in lines}
    root, group = (MOUNT / "memory", groups["memory"]) if "memory" in groups else (MOUNT, groups[""])
    members = root / group.lstrip("/") / "cgroup.procs"
    return ("/bin/sh", "-c", f'echo $$ > "{members}" && exec "$@"', "sh")


def pids(name: str = "") -> tuple[int, ...]:
    """Every process in the tracked group `name` and below; with no name, every process of ours."""
    found: set[int] = set()
    for folder, _, _ in os.walk(tracking_root() / name):
        try:
            found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
        except OSError:
            continue  # removed between the listing and the read
    return tuple(sorted(found))


def pids_below(name: str, *, containing: str) -> tuple[int, ...]:
    """Processes of the groups below `name` whose path holds `containing`, such as the uid of a pod."""
    root = tracking_root()
    folders = {Path(folder) for folder, _, _ in os.walk(root / name) if containing in folder}
    return tuple(sorted({pid for folder in folders for pid in pids(str(folder.relative_to(root)))}))


def kill_one(members: tuple[int, ...], *, name: str) -> int:
    """SIGKILL to the last of `members` whose command name is `name`. Returns its pid; raises LookupError."""
    for pid in reversed(members):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                os.kill(pid, signal.SIGKILL)
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise LookupError(f"none of the processes {members} is called {name}")


def kill(name: str = "") -> None:
    """End every process of a group at once and wait until the group is empty."""

    def is_empty() -> bool:
        members = pids(name)
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not members

    wait_until(f"the end of all processes in {ROOT}/{name}", is_empty, deadline_seconds=20, every_seconds=0.05)


def remove(name: str = "") -> None:
    """Remove a group and all below it in every hierarchy; their processes must have ended."""
    # On a host with both versions the runtime makes a group in the second one too.
    for hierarchy in {*hierarchies(), MOUNT / "unified"}:
        for folder, _, _ in os.walk(hierarchy / ROOT / name, topdown=False):
            wait_until(f"the removal of {folder}", partial(_is_removed, Path(folder)), deadline_seconds=10)
        _is_removed(hierarchy / ROOT)  # succeeds for the last group only


def _is_removed(folder: Path) -> bool:
    # A group whose last process just ended is busy for a moment.
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _inherit_cpuset(folder: Path) -> None:
    # A new cpuset of version 1 is empty, and nothing can enter it.
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if (folder / "cpuset.memory_migrate").exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())


def _pass_controllers_on(folder: Path) -> None:
    # Version 2 only: children have the controllers that their parent passes on.
    control = folder / "cgroup.subtree_control"
    if control.exists():
        available = (folder / "cgroup.controllers").read_text().split()
        control.write_text(" ".join(f"+{controller}" for controller in available))
