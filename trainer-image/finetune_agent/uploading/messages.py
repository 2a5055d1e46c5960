"""What the agent and its uploader say to each other: one JSON line a message. `Committed`, `StorageState` and `Warned` come unasked."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_contract.failures import FailureReport
from finetune_contract.reports import Committed, Output, StorageState, Warned
from finetune_contract.state import InputDigests, StateId
from finetune_contract.values import Value


class Follow(Value):
    """Upload every snapshot that comes, back to back; prune as `formation`, never what it resumed from."""

    type: Literal["follow"] = "follow"
    formation: int
    resumed_from: StateId | None = None


class Rest(Value):
    """Upload no more by yourself."""

    type: Literal["rest"] = "rest"


class CommitNewest(Value):
    """Make the newest snapshot a commit, now."""

    type: Literal["commit_newest"] = "commit_newest"
    id: int


class LoadNewest(Value):
    """Put the newest commit that verifies into a slot, if it is newer than `newer_than`. No worker may run meanwhile."""

    type: Literal["load_newest"] = "load_newest"
    id: int
    newer_than: StateId | None = None
    inputs: InputDigests | None = None


class Publish(Value):
    """Upload the adapter from `folder`: files, then the manifest. Refused if a later formation or another job got there first."""

    type: Literal["publish"] = "publish"
    id: int
    folder: str
    formation: int
    step: int
    inputs: InputDigests | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss: float | None = None
    sample_digest: str | None = None


class Answer(Value):
    """To one request. `unavailable`: the store is away or refuses, ask again later; `failure`: it will never work."""

    type: Literal["answer"] = "answer"
    id: int
    state: StateId | None = None
    output: Output | None = None
    unavailable: str | None = None
    failure: FailureReport | None = None


Request = Annotated[Follow | Rest | CommitNewest | LoadNewest | Publish, Field(discriminator="type")]
Unasked = Committed | StorageState | Warned
Report = Annotated[Answer | Unasked, Field(discriminator="type")]
Question = CommitNewest | LoadNewest | Publish

_REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


def parse_request(line: str | bytes) -> Request:
    return _REQUEST.validate_json(line)


def parse_report(line: str | bytes) -> Report:
    return _REPORT.validate_json(line)
