"""Whatever ends a rank gets the class that decides what happens next, and the rank where it began."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from finetune_contract.failures import DEVICE_ERROR, FailureClass, FailureKind, TrainingError
from finetune_trainer.not_finite import finite_or_told
from finetune_trainer.worker import report_of

ASSERTED = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."


@pytest.mark.parametrize(
    ("error", "failure_class", "is_device"),
    [
        (torch.AcceleratorError(ASSERTED), FailureClass.INFRASTRUCTURE, True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), FailureClass.INFRASTRUCTURE, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"), FailureClass.INFRASTRUCTURE, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), FailureClass.INFRASTRUCTURE, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass.OUT_OF_MEMORY, False),
        (torch.AcceleratorError("CUDA error: out of memory"), FailureClass.OUT_OF_MEMORY, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), FailureClass.OUT_OF_MEMORY, False),
        (MemoryError(), FailureClass.OUT_OF_MEMORY, False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), FailureClass.INTERNAL, False),
        (KeyError("CUDA error: of a dictionary"), FailureClass.INTERNAL, False),
    ],
)
def test_an_error_of_the_device_is_told_apart_from_memory_and_from_our_defects(error, failure_class, is_device):
    report = report_of(error, rank=2)
    assert (report.failure_class, report.rank) == (failure_class, 2)
    assert report.kind is (FailureKind.DEVICE if is_device else FailureKind.CAUSE)
    assert report.message.startswith(DEVICE_ERROR) == is_device


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp: unhandled cuda error: 'CUDA error: peer gone'"),
        RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:9"),
        ConnectionResetError("reset"),
    ],
)
def test_the_loss_of_a_peer_is_no_error_of_the_own_device(error):
    report = report_of(error, rank=2)
    assert report.kind is FailureKind.VICTIM
    assert DEVICE_ERROR not in report.message


def test_a_report_names_the_rank_where_it_began():
    began = TrainingError(FailureClass.NOT_FINITE, "step 3", rank=5)
    assert report_of(began, rank=2).rank == 5
    assert report_of(TrainingError(FailureClass.NOT_FINITE, "step 3"), rank=2).rank == 2


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_on_held_out_rows_that_is_not_finite_is_told_and_not_shown(loss):
    told = []
    reporter = SimpleNamespace(warn=told.append)
    assert finite_or_told(loss, 7, reporter) is None
    assert finite_or_told(1.5, 8, reporter) == 1.5
    assert [warning.reason for warning in told] == ["EvaluationNotFinite"]
    assert told[0].message.startswith(f"step 7: the loss on the held-out rows is {loss}")
