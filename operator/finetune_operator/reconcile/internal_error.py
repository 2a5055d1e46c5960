"""What a job's status says when its passes fail by a fault of ours: one condition in plain words, nothing else is touched."""

from datetime import datetime

from pydantic import ValidationError

from finetune_contract.values import changed
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import Condition, JobStatus

REASON = "InternalError"
_MAX_WORDS = 300


def words_of(error: BaseException) -> str:
    """Kind and first line of an error, without control characters; of a value that breaks its model, the field and no content."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = f"{error.title}.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    else:
        text = next(iter(str(error).splitlines()), "")
    printable = "".join(character if character.isprintable() else " " for character in text)
    return f"{type(error).__name__}: {printable}"[:_MAX_WORDS].rstrip(": ")


def with_internal_error(job: FineTuneJob, error: BaseException, now: datetime) -> JobStatus:
    """The stored status with condition Stalled. The words name no count that grows, so that the same fault is written once."""
    goes_on = "the members of the job keep running, and the operator tries again every few minutes"
    message = f"the operator met an internal error on this job; {goes_on}: {words_of(error)}"
    before = job.status.condition("Stalled")
    since = before.last_transition_time if before is not None and before.status == "True" else now
    stalled = Condition(
        type="Stalled",
        status="True",
        reason=REASON,
        message=message,
        observed_generation=job.metadata.generation,
        last_transition_time=since,
    )
    others = tuple(condition for condition in job.status.conditions if condition.type != "Stalled")
    return changed(job.status, conditions=(*others, stalled))
