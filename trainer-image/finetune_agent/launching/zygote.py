"""The zygote: a process that has done the trainer's imports, stays single-threaded, and forks one launcher per formation.

It never touches CUDA, runs no tensor operation and holds no credentials. Run as `python -m finetune_agent.launching FD PARENT WORKER`.

    agent --(order + pipe fd)--> zygote --fork--> launcher --fork--> worker 0 .. n-1
"""

import gc
import importlib
import logging
import os
import select
import signal
import socket
import time
from types import ModuleType

from finetune_agent.launching.messages import LauncherEnded, LaunchRefused, LaunchRequest, ZygoteReady
from finetune_agent.logs import configure_logs
from finetune_agent.processes.proc_tree import adopt_orphans, die_with_parent
from finetune_contract.run_order import RunOrder
from finetune_contract.values import Value, changed

_MAX_PACKET_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class Zygote:
    """Serves one control socket until the agent closes it."""

    def __init__(self, control: socket.socket, worker: str, launcher: ModuleType) -> None:
        self._control, self._worker, self._launcher = control, worker, launcher
        self._formations: dict[int, int] = {}  # pid of a launcher -> its formation
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wake_read], [], [])
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in readable and not self._take_request():
                return

    def _take_request(self) -> bool:
        packet, fds, _, _ = socket.recv_fds(self._control, _MAX_PACKET_BYTES, 1)
        if not packet:
            return False
        events_fd = fds[0]
        order = changed(LaunchRequest.model_validate_json(packet).order, events_fd=events_fd)
        try:
            self._fork(order)
        finally:
            os.close(events_fd)
        return True

    def _fork(self, order: RunOrder) -> None:
        threads = os.listdir("/proc/self/task")
        if len(threads) != 1:
            why = f"the zygote has {len(threads)} threads, a fork would copy their locks for ever: wanted 1"
            self._tell(LaunchRefused(formation=order.formation, why=why))
            return
        zygote_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_launcher(order, zygote_pid)
        self._formations[pid] = order.formation

    def _become_launcher(self, order: RunOrder, zygote_pid: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (self._control.fileno(), self._wake_read, self._wake_write):
            os.close(fd)
        os.setsid()
        die_with_parent(zygote_pid)
        os._exit(self._launcher.run_formation(order, self._worker))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            formation = self._formations.pop(pid, None)
            if formation is not None:
                self._tell(LauncherEnded(formation=formation, status=status))

    def _tell(self, event: Value) -> None:
        self._control.send(event.model_dump_json().encode())


def main(arguments: list[str]) -> int:
    control_fd, parent_pid, worker = int(arguments[0]), int(arguments[1]), arguments[2]
    die_with_parent(parent_pid)
    adopt_orphans()
    configure_logs(job="", member="", part="zygote")
    started = time.monotonic()
    importlib.import_module(worker.partition(":")[0])
    launcher = importlib.import_module("finetune_agent.launching.launcher")
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=control_fd)
    control.send(ZygoteReady(seconds=time.monotonic() - started).model_dump_json().encode())
    Zygote(control, worker, launcher).serve()
    return 0
