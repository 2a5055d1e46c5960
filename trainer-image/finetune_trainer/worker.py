"""Top of one worker: runs the recipe and turns what goes wrong into a failure report.

It must return and not exit: torchrun's engine waits for the result of its worker function.
"""

import contextlib
import ctypes
import logging
import os
import traceback

import torch
import torch.distributed as dist

from finetune_contract.failures import (
    DEVICE_ERROR,
    MAX_MESSAGE_CHARS,
    MAX_TRACEBACK_CHARS,
    PEER_LOST,
    FailureClass,
    FailureKind,
    FailureReport,
    TrainingError,
)
from finetune_contract.run_order import RunOrder, WorkerFailure
from finetune_trainer.loop import train
from finetune_trainer.ranks import ranks_from_environment
from finetune_trainer.report import Reporter

_PR_SET_NAME = 15
# torch raises RuntimeError for all of them; what is only about sizes or types must stay a defect of ours.
_LOST_PEER_SIGNS = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "nccl error", "read error")
# After any of them every further call on the device fails: only a new process can use it again.
_DEVICE_SIGNS = ("cuda error", "device-side assert", "cublas_status_", "cublas error", "cudnn_status_", "cudnn error")
_NO_MEMORY_SIGNS = ("out of memory", "_alloc_failed")
_log = logging.getLogger(__name__)


def run_rank(order: RunOrder) -> None:
    """Train as the rank of the environment. Raises SystemExit(1) after the failure was told."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"finetune-rank")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on CUDA
    ranks = ranks_from_environment()
    reporter = Reporter(order, ranks)
    try:
        train(order, ranks, reporter)
    except Exception as error:  # noqa: BLE001 - the worker's top: whatever it was, the agent must hear it
        _log.exception("rank %d failed in formation %d", ranks.rank, order.formation)
        reporter.tell(WorkerFailure(report=report_of(error, ranks.rank)))
        with contextlib.suppress(Exception):
            if dist.is_initialized():
                dist.destroy_process_group()
        raise SystemExit(1) from None


def report_of(error: Exception, rank: int) -> FailureReport:
    """Class, kind and words for whatever ended this rank."""
    ours = error if isinstance(error, TrainingError) else _classify(error)
    return FailureReport(
        failure_class=ours.failure_class,
        message=ours.message[:MAX_MESSAGE_CHARS],
        kind=ours.kind,
        rank=rank if ours.rank is None else ours.rank,
        exit_code=1,
        traceback_end=None if ours is error else "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARS:],
    )


def _classify(error: Exception) -> TrainingError:
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(FailureClass.OUT_OF_MEMORY, f"the device ran out of memory: {error}")
    if isinstance(error, MemoryError):
        return TrainingError(FailureClass.OUT_OF_MEMORY, "the process ran out of memory")
    if "No space left on device" in str(error):  # an OSError, or what safetensors makes of one
        what = f"a disk of this member is full: {error}; give the members more ephemeral storage"
        return TrainingError(FailureClass.INFRASTRUCTURE, what)
    if isinstance(error, (dist.DistError, ConnectionError)):
        return _peer_lost(error)
    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    if isinstance(error, torch.AcceleratorError) or any(sign in words for sign in _DEVICE_SIGNS):
        if any(sign in words for sign in _NO_MEMORY_SIGNS):
            return TrainingError(FailureClass.OUT_OF_MEMORY, f"the device ran out of memory: {error}")
        return TrainingError(FailureClass.INFRASTRUCTURE, f"{DEVICE_ERROR}: {error}", kind=FailureKind.DEVICE)
    if any(sign in words for sign in _LOST_PEER_SIGNS):
        return _peer_lost(error)
    return TrainingError(FailureClass.INTERNAL, f"{type(error).__name__}: {error}")


def _peer_lost(error: Exception) -> TrainingError:
    return TrainingError(FailureClass.INFRASTRUCTURE, f"{PEER_LOST}: {error}", kind=FailureKind.VICTIM)
