"""Stops a worker between two steps, when its peers have finished no step whose snapshot this member has not kept yet.

A step is finished by all ranks together and kept by each member for itself. A member that hands over between the two would lose
the step, although another member, which may be leaving, has already reported it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from finetune_agent.member.sigstop import STOPPED, read_process_state
from finetune_contract.times import BETWEEN_STEPS_POLL_SECONDS, BETWEEN_STEPS_SECONDS

_GONE = {"", "Z", "X"}


async def stop_between_steps(pid: int, is_between: Callable[[], bool], *, patience_seconds: float = BETWEEN_STEPS_SECONDS) -> bool:
    """Leave `pid` stopped at a moment at which `is_between`; False if there was none, or no such process any more.

    Only what is asked of a stopped process stays true until it is killed.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience_seconds
    while read_process_state(pid) not in _GONE and clock() < deadline:
        if is_between() and await _stop(pid, deadline):
            if is_between():
                return True
            _tell(pid, signal.SIGCONT)
        await asyncio.sleep(BETWEEN_STEPS_POLL_SECONDS)
    return False


async def _stop(pid: int, deadline: float) -> bool:
    clock = asyncio.get_running_loop().time
    _tell(pid, signal.SIGSTOP)
    while (state := read_process_state(pid)) not in STOPPED:
        if state in _GONE or clock() > deadline:
            return False
        await asyncio.sleep(0)
    return True


def _tell(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # its state says so at the next look
        os.kill(pid, number)
