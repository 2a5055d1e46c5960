"""The validating webhook's answer: the rules of the resource in one message. It adds no rule of its own."""

import threading
from typing import Any

from pydantic import ValidationError

from finetune_operator.api import rules
from finetune_operator.api.job import FineTuneJob
from finetune_operator.times import REVIEW_TRIAL_SECONDS, REVIEW_WAIT_SECONDS

MAX_ERRORS = 20  # of one answer
_one_trial = threading.Lock()  # whoever sends many templates does not take the machine from the others


def review(body: Any, old: Any) -> tuple[str | None, tuple[str, ...]]:
    """(refusal or None, warnings) for any JSON value that is created (`old` None) or changed. Cannot fail; takes some seconds at most.

    A field that we do not know is one that the API server knows: it is of a newer definition, which may give it to every job.
    """
    errors = rules.validate(body, old, extra="ignore")
    if errors:
        return "; ".join(str(error) for error in errors[:MAX_ERRORS]), ()
    try:
        job = rules.parse_job(body, extra="ignore")
    except (ValidationError, LookupError, TypeError, RecursionError):
        return None, ()  # it was stored like this before: nothing to warn of
    fault = _template_fault(job) if old is None else None
    return (f"spec.training.chatTemplate: {fault}", ()) if fault is not None else (None, rules.warnings(job))


def _template_fault(job: FineTuneJob) -> str | None:
    """None too while another template is tried for longer than this answer may wait: the members try it again."""
    text = job.spec.training.chat_template
    if text is None or not _one_trial.acquire(timeout=REVIEW_WAIT_SECONDS):
        return None
    from finetune_operator.api.template_trial import try_template

    try:
        return try_template(text, wall_seconds=REVIEW_TRIAL_SECONDS)
    finally:
        _one_trial.release()
