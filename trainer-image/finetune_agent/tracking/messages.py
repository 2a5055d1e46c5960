"""What the agent tells its tracker, and the warnings that come back: one JSON line a message."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_contract.reports import Progress, Warned
from finetune_contract.values import Value

Outcome = Literal["finished", "failed", "preempted"]  # preempted: another member goes on, now or later


class Ended(Value):
    """No more comes from this member."""

    type: Literal["ended"] = "ended"
    outcome: Outcome


Tracked = Annotated[Progress | Ended, Field(discriminator="type")]
_TRACKED: TypeAdapter[Tracked] = TypeAdapter(Tracked)


def parse_tracked(line: str | bytes) -> Tracked:
    return _TRACKED.validate_json(line)


def parse_tracker_report(line: str | bytes) -> Warned:
    return Warned.model_validate_json(line)
