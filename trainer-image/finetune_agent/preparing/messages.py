"""What the transfer child tells the agent: one JSON line a message, ended by `done` or `failed`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_contract.failures import FailureReport
from finetune_contract.reports import Output, Warned
from finetune_contract.state import InputDigests
from finetune_contract.values import Value


class ReadyInputs(Value):
    """Model and data on this machine, with the digests that all members must agree on."""

    model_dir: str
    dataset_files: tuple[str, ...]
    eval_files: tuple[str, ...] = ()
    digests: InputDigests


class Transferred(Value):
    """Bytes that are here; `bytes_total` as far as it is known yet."""

    type: Literal["transferred"] = "transferred"
    bytes_done: int
    bytes_total: int | None = None


class TransferDone(Value):
    """`output` is set when the adapter already is where it should go: nothing is left to do."""

    type: Literal["done"] = "done"
    inputs: ReadyInputs | None = None
    output: Output | None = None


class TransferFailed(Value):
    """Waiting will not help."""

    type: Literal["failed"] = "failed"
    report: FailureReport


TransferReport = Annotated[Transferred | TransferDone | TransferFailed | Warned, Field(discriminator="type")]
_REPORT: TypeAdapter[TransferReport] = TypeAdapter(TransferReport)


def parse_transfer_report(line: str | bytes) -> TransferReport:
    return _REPORT.validate_json(line)
