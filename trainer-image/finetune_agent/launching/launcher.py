"""One formation on one member: torchrun's engine with forked workers, and the truth about how they ended.

Imported by the zygote only (it imports torch). Writes its findings to the event pipe; decides nothing.
"""

import faulthandler
import hmac
import importlib
import logging
import os
import signal
import socket
import time
import traceback
from typing import Any

import torch
import torch.multiprocessing
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.numa.binding import AffinityMode, NumaOptions

from finetune_agent.launching.interfaces import interface_of
from finetune_agent.launching.messages import WorkerForked, render_line
from finetune_agent.processes.proc_tree import die_with_parent
from finetune_contract.failures import MAX_MESSAGE_CHARS, MAX_TRACEBACK_CHARS, FailureClass, FailureReport, TrainingError
from finetune_contract.run_order import RunOrder, WorkerFailure
from finetune_contract.times import LISTENING_SECONDS, LOOK_AGAIN_SECONDS, MEETING_SECONDS
from finetune_contract.values import Value

_log = logging.getLogger(__name__)


def run_formation(order: RunOrder, worker: str) -> int:
    """Run the workers of this member to their end. Returns the launcher's exit code; the agent believes the events only."""
    _prepare_environment(order)
    _tell_ends_at_once(order)
    _wait_for_the_meeting_place(order)
    try:
        elastic_launch(_launch_config(order), _run_worker)(worker, order.model_dump_json(), os.getpid())
    except ChildFailedError:
        return 1  # told already
    except BaseException as error:  # noqa: BLE001 - the launcher's top: whatever it was, the agent must hear it
        _log.exception("the launcher of formation %d failed", order.formation)
        report = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=_why_not_met(order, error))
        _tell(order, WorkerFailure(report=report))
        return 1
    return 0


def _launch_config(order: RunOrder) -> LaunchConfig:
    config = LaunchConfig(
        min_nodes=order.num_nodes,
        max_nodes=order.num_nodes,
        nproc_per_node=order.processes_per_node,
        run_id=_run_id(order),
        role="worker",
        rdzv_backend="static",
        rdzv_endpoint=_endpoint(order),
        rdzv_configs={"rank": order.node_rank, "timeout": MEETING_SECONDS},
        local_addr=order.master_address if order.node_rank == 0 else None,
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",
        numa_options=NumaOptions(affinity_mode=AffinityMode.NODE),
    )
    # Without options LaunchConfig asks CUDA for its devices, and a worker forked after that can use none of them.
    config.numa_options = None
    return config


def _run_id(order: RunOrder) -> str:
    """Begins the launchers' keys in the store. It stands in the environment of the workers, so the secret itself is no part of it."""
    if order.store_secret is None:
        return f"{order.config.job.uid}-{order.formation}"
    return hmac.new(order.store_secret.encode(), b"launchers", "sha256").hexdigest()


def _endpoint(order: RunOrder) -> str:
    host = f"[{order.master_address}]" if ":" in order.master_address else order.master_address
    return f"{host}:{order.master_port}"


def _prepare_environment(order: RunOrder) -> None:
    if order.num_nodes == 1:
        return
    interface = interface_of(order.master_address)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if interface is not None and name not in os.environ:
            os.environ[name] = interface


def _wait_for_the_meeting_place(order: RunOrder) -> None:
    """Until node rank 0 listens. A store's client that comes too early is refused, and torch tries again after 0.5 to 1.5 s."""
    deadline = time.monotonic() + LISTENING_SECONDS
    while order.node_rank != 0 and time.monotonic() < deadline:
        try:
            socket.create_connection((order.master_address, order.master_port), timeout=LISTENING_SECONDS).close()
        except OSError:
            time.sleep(LOOK_AGAIN_SECONDS)
        else:
            return


def _run_worker(worker: str, order_json: str, launcher_pid: int) -> None:
    """First code of a forked worker. The engine's signal handlers are undone: they cannot run inside a blocked collective."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(launcher_pid)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    order = RunOrder.model_validate_json(order_json)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    _tell(order, WorkerForked(rank=rank, local_rank=local_rank, pid=os.getpid()))
    try:
        assert not torch.cuda._is_in_bad_fork(), "CUDA was touched before the fork: workers could not use it"
        module, _, function = worker.partition(":")
        getattr(importlib.import_module(module), function)(order)
    except BaseException as error:
        _tell(order, WorkerFailure(report=_report_of(error, rank)))
        raise


def _report_of(error: BaseException, rank: int) -> FailureReport:
    """For what the trainer let through; if it told its own report before, that one counts."""
    failure_class = error.failure_class if isinstance(error, TrainingError) else FailureClass.INTERNAL
    return FailureReport(
        failure_class=failure_class,
        message=f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS],
        rank=rank,
        exit_code=1,
        traceback_end=traceback.format_exc()[-MAX_TRACEBACK_CHARS:],
    )


def _why_not_met(order: RunOrder, error: BaseException) -> str:
    where = f"the members could not meet at {_endpoint(order)}"
    return f"{where}: {type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS]


def _tell_ends_at_once(order: RunOrder) -> None:
    """Tell how workers ended in the moment the engine sees it: its own way out takes seconds, and names one rank only."""
    start_processes = torch.multiprocessing.start_processes
    first_rank = order.node_rank * order.processes_per_node

    def start_and_watch(*arguments: Any, **named: Any) -> Any:
        context = start_processes(*arguments, **named)
        join = context.join

        def join_and_tell(*arguments: Any, **named: Any) -> Any:
            try:
                return join(*arguments, **named)
            except (ProcessExitedException, ProcessRaisedException) as error:
                for index, code in _ends(context.processes, error.error_index).items():
                    _tell(order, WorkerFailure(report=_report(first_rank + index, code)))
                raise

        context.join = join_and_tell
        return context

    torch.multiprocessing.start_processes = start_and_watch


def _ends(processes: list[Any], blamed: int) -> dict[int, int]:
    """Exit codes by local rank: ends by a signal first. SIGTERM is what torch sends to siblings: it counts only for the blamed one."""
    codes = {index: process.exitcode for index, process in enumerate(processes)}
    killed = {index: code for index, code in codes.items() if code is not None and code < 0 and code != -signal.SIGTERM}
    return killed or {blamed: codes[blamed]}


def _tell(order: RunOrder, event: Value) -> None:
    assert order.events_fd is not None
    os.write(order.events_fd, render_line(event))


def _report(rank: int, exit_code: int) -> FailureReport:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        message = f"rank {rank} was ended by {name}"
        return FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message, rank=rank, signal=name)
    message = f"rank {rank} ended with exit code {exit_code} without saying why; its last lines are in the log of the member"
    return FailureReport(failure_class=FailureClass.INTERNAL, message=message, rank=rank, exit_code=exit_code)
