"""Last words: why this member ended, or what it published, where Kubernetes (or the local run) finds it."""

import contextlib
from pathlib import Path

from finetune_contract.failures import FailureReport
from finetune_contract.last_words import Finished, parse_last_words, render_last_words


def write_last_words(path: Path | None, words: FailureReport | Finished) -> None:
    """A complete adapter is the last word: no failure after it is written over it. A place that cannot be written is no reason to fail."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        if isinstance(words, FailureReport) and path.exists() and isinstance(parse_last_words(path.read_text(errors="replace")), Finished):
            return
        path.write_text(render_last_words(words))
