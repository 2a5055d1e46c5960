"""When steps were finished, from the snapshot slots in the memory of a job's members: every step writes one, whoever reports it.

Status and channel are not asked: this is the other witness of what they tell. Looks 50 times a second; needs nodes of this machine.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from e2e.harness import cgroups
from e2e.harness.processes import first_process
from e2e.harness.shell import NotReached
from finetune_contract.slots import SlotFile
from finetune_contract.state import StateId

LOOK_SECONDS = 0.02
SEARCH_SECONDS = 0.25
YOUNG_SECONDS = 60.0  # a container's first process is runc's for a moment, with runc's environment


@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished step; `at` is seconds of the wall clock, which all nodes share."""

    formation: int
    step: int
    at: float


@dataclass
class StepWatch:
    """Everything seen so far. A formation that resumes writes first what it resumes from: that is no step."""

    job: str
    seen: dict[tuple[int, int], float] = field(default_factory=dict)
    _members: dict[int, Path | None] = field(default_factory=dict)  # by pid of the agent: its slots, once they are reserved
    _others: dict[int, float] = field(default_factory=dict)  # when each was met first
    _end: threading.Event = field(default_factory=threading.Event)

    def steps(self, *, since: float = 0.0) -> list[Step]:
        """In the order of time."""
        known = sorted(self.seen.items(), key=lambda item: item[1])
        resumed = self._resumed_steps()
        return [
            Step(formation=formation, step=step, at=at)
            for (formation, step), at in known
            if at >= since and step > resumed.get(formation, -1)
        ]

    def first_after(self, formation: int) -> Step | None:
        """The first step of any later formation."""
        return next((step for step in self.steps() if step.formation > formation), None)

    def newest_formation(self) -> int:
        return max((formation for formation, _ in tuple(self.seen)), default=0)

    def furthest_step(self, at: float) -> int:
        """Number of the newest step that was finished by then."""
        return max((step for (_, step), moment in tuple(self.seen.items()) if moment <= at), default=0)

    def longest_pause(self, *, since: float) -> float:
        """Seconds between two finished steps, the last one before `since` included."""
        times = [step.at for step in self.steps()]
        first = max((index for index, at in enumerate(times) if at < since), default=0)
        return max((later - earlier for earlier, later in pairwise(times[first:])), default=0.0)

    def lost_steps(self, formation: int) -> int:
        """Steps before `formation` that it had to compute again."""
        furthest = max((step for number, step in tuple(self.seen) if number < formation), default=0)
        return max(furthest - self._resumed_steps().get(formation, furthest), 0)

    def wait_step_after(self, formation: int, *, deadline_seconds: float) -> Step:
        end = time.monotonic() + deadline_seconds
        while (step := self.first_after(formation)) is None:
            if time.monotonic() > end:
                raise NotReached(f"no step of {self.job} after formation {formation} within {deadline_seconds:.0f} s")
            time.sleep(LOOK_SECONDS)
        return step

    def wait_steps(self, number: int, *, deadline_seconds: float) -> None:
        """Until so many more steps are finished."""
        wanted, end = len(self.steps()) + number, time.monotonic() + deadline_seconds
        while len(self.steps()) < wanted:
            if time.monotonic() > end:
                raise NotReached(f"{self.job} made fewer than {number} steps within {deadline_seconds:.0f} s")
            time.sleep(10 * LOOK_SECONDS)

    def run(self) -> None:
        searched_at = 0.0
        while not self._end.wait(LOOK_SECONDS):
            if time.monotonic() - searched_at > SEARCH_SECONDS:
                self._search()
                searched_at = time.monotonic()
            self._look()

    def stop(self) -> None:
        self._end.set()

    def _resumed_steps(self) -> dict[int, int]:
        formations: dict[int, int] = {}
        for formation, step in tuple(self.seen):
            formations[formation] = min(step, formations.get(formation, step))
        return {formation: step for formation, step in formations.items() if formation > min(formations)}

    def _look(self) -> None:
        now = time.time()
        for pid, path in tuple(self._members.items()):
            try:
                found = read_newest(pid) if path is None else (path, newest_in(path))
            except (OSError, ValueError):  # it has ended, or the file is just being made larger
                if not Path(f"/proc/{pid}").exists():
                    self._members.pop(pid)
                continue
            if found is not None:
                self._members[pid] = found[0]
                if found[1] is not None:
                    self.seen.setdefault(found[1].order, now)

    def _search(self) -> None:
        pids, now = set(cgroups.pids()), time.monotonic()
        self._others = {pid: met_at for pid, met_at in self._others.items() if pid in pids}
        for pid in pids - self._members.keys():
            if now - self._others.setdefault(pid, now) < YOUNG_SECONDS and is_agent_of(pid, self.job):
                self._members[pid] = None


@contextmanager
def watching_steps(job: str) -> Iterator[StepWatch]:
    watch = StepWatch(job)
    thread = threading.Thread(target=watch.run, name=f"steps of {job}", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()


def is_agent_of(pid: int, job: str) -> bool:
    """Process 1 of a container with a member's name of this job."""
    with suppress(OSError, LookupError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        name = next((entry for entry in environment if entry.startswith(b"FINETUNE_MEMBER_NAME=")), b"").decode()
        return re.fullmatch(rf"FINETUNE_MEMBER_NAME={re.escape(job)}-[0-9a-z]{{4}}-\d+", name) is not None and first_process([pid]) == pid
    return False


def read_newest(pid: int) -> tuple[Path, StateId | None] | None:
    """Which open file of an agent holds its slots, and the newest state in it. None before the first formation; OSError: it has ended."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(entry).endswith(" (deleted)") and (state := newest_in(entry)) is not None:
                return entry, state
    return None


def newest_in(path: Path) -> StateId | None:
    """Opened anew at each look: an open file would keep a pod's volume from being taken away."""
    fd = os.open(path, os.O_RDWR)
    try:
        return SlotFile(fd).newest_id()
    finally:
        os.close(fd)
