"""Last words: why this member ended, as a FailureReport of at most 4 KiB where Kubernetes (or the local run) finds it."""

import contextlib
from pathlib import Path

from finetune_contract.failures import FailureReport

MAX_BYTES = 4096


def write_last_words(path: Path | None, report: FailureReport) -> None:
    """Shortens the traceback, then the message, until it fits. A place that cannot be written is no reason to fail."""
    if path is None:
        return
    text = report.model_dump_json(exclude_none=True)
    if len(text.encode()) > MAX_BYTES:
        text = report.model_copy(update={"traceback_end": None}).model_dump_json(exclude_none=True)
    message = report.message
    while len(text.encode()) > MAX_BYTES:
        message = message[: len(message) // 2]
        text = report.model_copy(update={"traceback_end": None, "message": message}).model_dump_json(exclude_none=True)
    with contextlib.suppress(OSError):
        path.write_text(text)
