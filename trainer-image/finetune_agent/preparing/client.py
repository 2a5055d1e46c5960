"""The agent's side of the transfer: a child downloads, checks and hashes, so that no byte of it delays a heartbeat."""

import asyncio
import os
import sys
from collections.abc import Callable

from finetune_agent.preparing.messages import (
    TransferDone,
    TransferFailed,
    Transferred,
    parse_transfer_report,
)
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.reports import Warned

_MAX_LINE_BYTES = 1 << 20


async def transfer_inputs(*, tell_bytes: Callable[[int, int | None], None], warn: Callable[[Warned], None]) -> TransferDone:
    """Raises TrainingError in the user's words. A cancelled transfer leaves no child; what it fetched is used by the next."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "finetune_agent.preparing", str(os.getpid())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        while line := await child.stdout.readline():
            report = parse_transfer_report(line)
            if isinstance(report, Transferred):
                tell_bytes(report.bytes_done, report.bytes_total)
            elif isinstance(report, Warned):
                warn(report)
            elif isinstance(report, TransferFailed):
                raise TrainingError(report.report.failure_class, report.report.message)
            else:
                return report
        status = await child.wait()
        raise TrainingError(FailureClass.INTERNAL, f"the transfer of model and data ended with status {status}; the log says why")
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
