"""What a rank tells: events on the pipe of its agent (or on standard output under plain torchrun), and the beat."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Literal

from finetune_contract.beat import Beat
from finetune_contract.reports import Progress
from finetune_contract.run_order import RunOrder, WorkerPhase, WorkerPrepared, WorkerProgress, WorkerWarning
from finetune_contract.times import BETWEEN_PREPARED_SECONDS
from finetune_contract.values import Value
from finetune_trainer.ranks import Ranks

Phase = Literal["loading", "preparing", "first_step", "training", "evaluating", "exporting"]


class Reporter:
    """One line, one write: lines of many ranks share a pipe and stay whole."""

    def __init__(self, order: RunOrder, ranks: Ranks) -> None:
        self._ranks = ranks
        self._fd = sys.stdout.fileno() if order.events_fd is None else order.events_fd
        self._beat = None if order.beat_fd is None else Beat(order.beat_fd)
        self._prepared_at = -BETWEEN_PREPARED_SECONDS
        self._set_waiting(False)  # whoever had this rank before may have been killed while it waited
        self.owe_snapshot(False)

    def tell(self, event: Value) -> None:
        os.write(self._fd, event.model_dump_json(exclude_none=True).encode() + b"\n")

    def beat(self) -> None:
        """Say that this rank is alive and got somewhere."""
        if self._beat is not None:
            self._beat.advance(self._ranks.local_rank)

    def beat_within(self) -> None:
        """Say that this rank is alive in the midst of a micro-batch."""
        if self._beat is not None:
            self._beat.advance_within(self._ranks.local_rank)

    def begin_batch(self, num_tokens: int) -> None:
        """Say how large the micro-batch is that begins now: it may take longer than those before it."""
        if self._beat is not None:
            self._beat.set_tokens(self._ranks.local_rank, num_tokens)

    @contextlib.contextmanager
    def waiting_for_peers(self) -> Iterator[None]:
        """Around a collective of all ranks: whoever is silent meanwhile may only be a victim of another."""
        self._set_waiting(True)
        yield
        self._set_waiting(False)

    def _set_waiting(self, is_waiting: bool) -> None:
        if self._beat is not None:
            self._beat.set_waiting(self._ranks.local_rank, is_waiting)

    def owe_snapshot(self, owes: bool = True) -> None:
        """Mark that the member has not kept the step that its peers may already have finished. `kept` clears the mark."""
        if self._beat is not None and self._ranks.is_local_leader:
            self._beat.set_owes_snapshot(self._ranks.local_rank, owes)

    def kept(self, progress: Progress) -> None:
        """The snapshot of a step is complete; the first rank of all says so."""
        if self._ranks.is_leader:
            self.tell(WorkerProgress(progress=progress))
        self.owe_snapshot(False)

    def enter(self, phase: Phase, *, resumed_step: int | None = None, num_bytes: int = 0) -> None:
        """The first rank of each member announces phases; every rank beats."""
        self.beat()
        if self._ranks.is_local_leader:
            self.tell(WorkerPhase(phase=phase, resumed_step=resumed_step, num_bytes=num_bytes))

    def prepared(self, rows_done: int, rows_total: int | None) -> None:
        """How far the preparing of the data is; the first rank of each member, now and then."""
        now = time.monotonic()
        if self._ranks.is_local_leader and now - self._prepared_at >= BETWEEN_PREPARED_SECONDS:
            self._prepared_at = now
            self.tell(WorkerPrepared(rows_done=rows_done, rows_total=rows_total))

    def warn(self, warning: WorkerWarning) -> None:
        """For the user, ends nothing; from the first rank of all only."""
        if self._ranks.is_leader:
            self.tell(warning)
