"""Finds workers that were stopped (SIGSTOP, a debugger, a frozen control group): they end nothing and answer nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_contract.failures import FailureClass, FailureReport

STOPPED = {"T", "t"}


class SigstopDetector:
    """A worker that is seen stopped by two looks in a row is reported: one look alone may meet a passing stop."""

    def __init__(self, read_state: Callable[[int], str] | None = None) -> None:
        self._read_state = read_state or read_process_state
        self._seen: set[int] = set()

    def judge(self, pids: Mapping[int, int], done: set[int]) -> FailureReport | None:
        """`pids` by global rank; ranks in `done` may do what they like."""
        stopped = {rank for rank, pid in pids.items() if rank not in done and self._read_state(pid) in STOPPED}
        known, self._seen = stopped & self._seen, stopped
        if not known:
            return None
        rank = min(known)
        message = f"rank {rank} is stopped (SIGSTOP or a debugger): a stopped process neither trains nor reports a failure"
        return FailureReport(failure_class=FailureClass.HANG, message=message, rank=rank)


def read_process_state(pid: int) -> str:
    """The letter of /proc/PID/stat; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
