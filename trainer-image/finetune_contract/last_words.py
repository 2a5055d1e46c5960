"""Last words: what an ended member leaves in its termination message, a failure or the adapter that it published.

They are read long after the member has ended, possibly by an operator that was away meanwhile, so they must say all that decides.
"""

from typing import Literal

from finetune_contract.bounds import BORDER, FormationNumber
from finetune_contract.failures import FailureReport
from finetune_contract.reports import Output, Progress
from finetune_contract.values import Value, changed

MAX_BYTES = 4096  # Kubernetes keeps no more of a termination message


class Finished(Value):
    """The work of this member is done and the adapter is complete. `formation` 0: it was there already while the member prepared."""

    type: Literal["finished"] = "finished"
    formation: FormationNumber
    output: Output
    progress: Progress | None = None  # the last one, which nobody may have heard


def parse_last_words(text: str) -> FailureReport | Finished | None:
    """None for everything that no agent of ours writes; it raises nothing."""
    if len(text) > MAX_BYTES:
        return None
    for kind in (FailureReport, Finished):
        try:
            return kind.model_validate_json(text, context=BORDER)
        except ValueError:  # pydantic's error is one; so is a text that is no Unicode
            continue
    return None


def render_last_words(words: FailureReport | Finished) -> str:
    """At most MAX_BYTES of UTF-8: the progress or the traceback is dropped first, then the message is shortened."""
    text = words.model_dump_json(exclude_none=True)
    if len(text.encode()) <= MAX_BYTES:
        return text
    if isinstance(words, Finished):
        return changed(words, progress=None).model_dump_json(exclude_none=True)
    message = words.message
    text = changed(words, traceback_end=None).model_dump_json(exclude_none=True)
    while len(text.encode()) > MAX_BYTES:
        message = message[: len(message) // 2]
        text = changed(words, traceback_end=None, message=message).model_dump_json(exclude_none=True)
    return text
