"""What ended a rank, in a class that decides what happens next."""

import errno

import pytest
from safetensors import SafetensorError

from finetune_contract.failures import FailureClass
from finetune_trainer.worker import report_of


@pytest.mark.parametrize(
    ("error", "failure_class", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/work/cache/tokens.npz"), FailureClass.INFRASTRUCTURE, "/work/cache/tokens.npz"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), FailureClass.INFRASTRUCTURE, "a disk of this member is full"),
        (MemoryError(), FailureClass.OUT_OF_MEMORY, "ran out of memory"),
        (ConnectionResetError("reset"), FailureClass.INFRASTRUCTURE, "peer lost"),
        (ValueError("odd"), FailureClass.INTERNAL, "ValueError: odd"),
    ],
)
def test_an_error_gets_its_class_and_its_words(error, failure_class, words) -> None:
    report = report_of(error, rank=1)
    assert (report.failure_class, report.rank) == (failure_class, 1)
    assert words in report.message
