"""The validating webhook's answer: the rules of the resource in one message. It adds no rule of its own."""

from typing import Any

from finetune_operator.api import rules
from finetune_operator.api.job import FineTuneJob

JsonObject = dict[str, Any]


def review(body: JsonObject, old: JsonObject | None) -> tuple[str | None, tuple[str, ...]]:
    """(refusal or None, warnings) for a FineTuneJob that is created (`old` None) or changed."""
    errors = rules.validate(body, old)
    if errors:
        return "; ".join(str(error) for error in errors), ()
    return None, tuple(rules.warnings(FineTuneJob.model_validate(body)))
