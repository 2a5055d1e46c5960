"""The agent's side of the zygote: start it, launch a formation, end everything below it. A zygote that dies is started again."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from typing import BinaryIO

from pydantic import ValidationError

from finetune_agent.launching.messages import (
    LauncherEnded,
    LaunchEvent,
    LaunchRefused,
    LaunchRequest,
    ZygoteReady,
    parse_pipe_event,
    parse_zygote_event,
)
from finetune_agent.processes.proc_tree import end_all_below
from finetune_agent.settings import Settings
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import counted
from finetune_contract.run_order import RunOrder
from finetune_contract.times import LAUNCHER_RESTART_SECONDS
from finetune_contract.values import changed

_MAX_LINE_BYTES = 1 << 20
_MOST_DUDS = 3  # zygotes that ended before they were ready, in a row
_SECRET_PREFIXES = ("AWS_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_", "FINETUNE_")
_log = logging.getLogger(__name__)


class Launch:
    """The events of one formation on this member. The pipe has ended when no process holds its writing end any more."""

    def __init__(self, formation: int) -> None:
        self.formation = formation
        self.events: asyncio.Queue[LaunchEvent] = asyncio.Queue()
        self.pipe_ended = asyncio.Event()

    async def read_pipe(self, pipe: BinaryIO) -> None:
        reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while line := await reader.readline():
                try:
                    self.events.put_nowait(parse_pipe_event(line))
                except ValidationError as error:
                    _log.warning("a worker's event was not understood: %s", error, extra={"formation": self.formation})
        finally:
            transport.close()
            self.pipe_ended.set()


class Workers:
    """One zygote and at most one launch. `slots_fd` and `beat_fd` are inherited by every worker under the same numbers."""

    def __init__(self, *, settings: Settings, environment: Mapping[str, str], slots_fd: int, beat_fd: int) -> None:
        self._settings, self._slots_fd, self._beat_fd = settings, slots_fd, beat_fd
        self._environment = zygote_environment(settings, environment)
        self._zygote: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._ready = asyncio.Event()
        self._launch: Launch | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def zygote_pid(self) -> int | None:
        return None if self._zygote is None else self._zygote.pid

    async def run(self) -> None:
        """Keep a zygote alive, for ever. A launch whose zygote died is reported as ended. Raises TrainingError if none gets ready."""
        num_duds = 0
        while True:
            await self._start()
            is_proven = await self._listen()
            self._ready.clear()
            assert self._zygote is not None
            status = await self._zygote.wait()
            _log.error("the zygote ended with status %d; it is started again", status)
            if self._launch is not None:
                self._launch.events.put_nowait(LauncherEnded(formation=self._launch.formation, status=9))
            num_duds = 0 if is_proven else num_duds + 1
            if num_duds == _MOST_DUDS:
                message = (
                    f"the trainer cannot be loaded: its process ended {counted(num_duds, 'time')} before it was ready; the log says why"
                )
                raise TrainingError(FailureClass.INTERNAL, message)
            await asyncio.sleep(LAUNCHER_RESTART_SECONDS)

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def launch(self, order: RunOrder) -> Launch:
        """Nothing of an older launch may be alive: call `end` first."""
        assert self._launch is None
        await self._ready.wait()
        assert self._control is not None
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        launch = Launch(order.formation)
        self._launch = launch
        self._reader = asyncio.create_task(launch.read_pipe(os.fdopen(read_fd, "rb", buffering=0)))
        order = changed(order, slots_fd=self._slots_fd, beat_fd=self._beat_fd)
        try:
            socket.send_fds(self._control, [LaunchRequest(order=order).model_dump_json().encode()], [write_fd])
        except OSError as error:
            launch.events.put_nowait(LaunchRefused(formation=order.formation, why=f"the zygote cannot be reached: {error}"))
        finally:
            os.close(write_fd)
        return launch

    async def end(self, spared_trees: tuple[int, ...] = ()) -> None:
        """Kill and reap whatever lives below the zygote, strays included. `spared_trees`: the agent's other children."""
        spared = () if self._zygote is None or self._zygote.returncode is not None else (self._zygote.pid,)
        left = await end_all_below(os.getpid(), spared=spared, spared_trees=spared_trees)
        if left:
            _log.error("processes %s outlived SIGKILL for 30 s: a device or a file system does not answer", list(left))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        self._launch, self._reader = None, None

    async def close(self) -> None:
        if self._zygote is not None and self._zygote.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._zygote.kill()
            await self._zygote.wait()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        for folder in (self._settings.tmp_folder, self._settings.cache_folder, self._settings.work_folder / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        with theirs:
            self._zygote = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "finetune_agent.launching", str(theirs.fileno()), str(os.getpid()), self._settings.worker),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
                pass_fds=(theirs.fileno(), self._slots_fd, self._beat_fd),
                start_new_session=True,
            )
        self._control = ours

    async def _listen(self) -> bool:
        """Take what the zygote says until its socket closes. True if it was ready once."""
        assert self._control is not None
        loop = asyncio.get_running_loop()
        with self._control as control:
            while packet := await _receive(loop, control):
                event = parse_zygote_event(packet)
                if isinstance(event, ZygoteReady):
                    _log.info("zygote is ready after %.1f s", event.seconds)
                    self._ready.set()
                elif self._launch is not None and event.formation == self._launch.formation:
                    self._launch.events.put_nowait(event)
        return self._ready.is_set()


async def _receive(loop: asyncio.AbstractEventLoop, control: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(control, _MAX_LINE_BYTES)
    except ConnectionError:
        return b""


def zygote_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """One native thread, no secrets, every cache below the work folder (a member's root is read-only)."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_SECRET_PREFIXES)}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(settings.work_folder / "home"),
        "TMPDIR": str(settings.tmp_folder),
        "TORCHINDUCTOR_CACHE_DIR": str(settings.cache_folder / "inductor"),
        "TRITON_CACHE_DIR": str(settings.cache_folder / "triton"),
    }
