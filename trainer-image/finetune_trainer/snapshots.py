"""Snapshots of one member: the state of each step goes into the slots while the next step is computed.

    training thread    begin(k)  forward and backward of k+1 (they only read the weights)  wait  update k+1
    writer thread      copy, checksum, "step k is done"

So a step waits only for what its own computation did not hide, and a step is reported only when its snapshot is complete.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from finetune_contract.run_order import RunOrder
from finetune_contract.slots import SlotFile, Snapshot
from finetune_contract.state import RunRecord, StateId
from finetune_trainer.optimise import FlatState
from finetune_trainer.ranks import Ranks

_AT_ONCE_BYTES = 1 << 20  # copied and checked in less time than a second thread needs to get hold of the interpreter


class Snapshots:
    """The slots of this member as its first rank writes them; on other ranks they are read by nobody and written by nobody."""

    def __init__(self, order: RunOrder, ranks: Ranks, state: FlatState) -> None:
        self._formation, self._state = order.formation, state
        self._slots: SlotFile | None = None
        self._pending: Future[None] | None = None
        self._stream: torch.cuda.Stream | None = None
        if not ranks.is_local_leader:
            return
        self._slots = SlotFile(os.memfd_create("finetune-slots") if order.slots_fd is None else order.slots_fd)
        self._slots.reserve(state.state_3P.numel() * 4)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._host_3P = state.state_3P
        if state.state_3P.is_cuda:
            self._host_3P = torch.empty_like(state.state_3P, device="cpu", pin_memory=True)
            self._stream = torch.cuda.Stream()

    def newest(self) -> Snapshot | None:
        return None if self._slots is None else self._slots.read_newest()

    def begin(self, record: RunRecord, then: Callable[[], None] | None = None) -> None:
        """Start to write the state as it is now; it may not change before `wait`. `then` is called when the snapshot is complete."""
        self.wait()
        if self._slots is None:
            return
        self._state.is_lent = True
        if self._host_3P.nbytes <= _AT_ONCE_BYTES:
            self._write(self._slots, record, self._copy_to_host(), then)
        else:
            self._pending = self._writer.submit(self._write, self._slots, record, self._copy_to_host(), then)

    def wait(self) -> None:
        """Until what was begun is complete. Raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
        self._state.is_lent = False

    def _copy_to_host(self) -> torch.cuda.Event | None:
        """Queued behind the update, beside the next step; the event says when the pinned copy is whole."""
        if self._stream is None:
            return None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._host_3P.copy_(self._state.state_3P, non_blocking=True)
        return self._stream.record_event()

    def _write(self, slots: SlotFile, record: RunRecord, copied: torch.cuda.Event | None, then: Callable[[], None] | None) -> None:
        if copied is not None:
            copied.synchronize()
        slots.write(StateId(formation=self._formation, step=record.step), record, self._host_3P.numpy())
        if then is not None:
            then()
