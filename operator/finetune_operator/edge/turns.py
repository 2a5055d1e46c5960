"""Whose review is next: few at a time, the address that has cost least first.

An address that posts many or slow reviews waits behind one that posts few. All reviews together have a share of one core; once it is
spent, only addresses that have kept to their own share get a turn. The API server does: it is never kept waiting by strangers.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from finetune_operator.coordinator.pace import Bucket

AT_ONCE = 3  # threads; one of them may wait for the trial of a template
_MAX_WAITING = 256
_SHARE_OF_ALL, _OF_ALL_AT_ONCE = 0.25, 2.0  # of a core, and seconds of it that may be spent at first; a common review costs 1 ms
_SHARE_OF_ADDRESS, _OF_ADDRESS_AT_ONCE = 0.05, 1.0  # of a thread, the time that it waits for a trial too
_MOST_REMEMBERED = 1024  # addresses


class Busy(Exception):
    """No turn came in time."""


class Turns:
    """`wait_seconds`: for a turn; then whoever waits is told that we are busy."""

    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._costs: OrderedDict[str, Bucket] = OrderedDict()
        self._all = Bucket(_SHARE_OF_ALL, _OF_ALL_AT_ONCE)
        self._num_free, self._num_waiting = AT_ONCE, 0

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[list[float]]:
        """Seconds of the processor go into the list. Raises Busy."""
        costs: list[float] = []
        await self._wait(address)
        started = _now()
        try:
            yield costs
        finally:
            self._pay(address, _now() - started)
            rest = self._all.spend(sum(costs), _now())
            self._give_back()
            if rest > 0:
                asyncio.get_running_loop().call_later(rest, self._give_turns)

    async def _wait(self, address: str) -> None:
        if self._num_waiting >= _MAX_WAITING:
            self._send_last_away(max(self._waiting, key=lambda other: (self._debt(other), len(self._waiting[other]))))
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        self._num_waiting += 1
        self._give_turns()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException as error:
            self._leave(address, turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back()  # it came at the same moment
            if isinstance(error, TimeoutError):
                raise Busy from error
            raise

    def _send_last_away(self, address: str) -> None:
        last = self._waiting[address][-1]
        self._leave(address, last)
        last.set_exception(Busy())

    def _leave(self, address: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(address)
        if turns is not None and turn in turns:
            turns.remove(turn)
            self._num_waiting -= 1
            if not turns:
                del self._waiting[address]

    def _give_turns(self) -> None:
        is_spent = self._all.spend(0.0, _now()) > 0
        while self._num_free > 0 and self._waiting:
            address = min(self._waiting, key=self._debt)
            if is_spent and self._debt(address) > 0:
                return
            turns = self._waiting.pop(address)
            self._waiting[address] = turns  # the last among equals
            turn = turns[0]
            self._leave(address, turn)
            if not turn.done():
                self._num_free -= 1
                turn.set_result(None)

    def _pay(self, address: str, seconds: float) -> None:
        bucket = self._costs.setdefault(address, Bucket(_SHARE_OF_ADDRESS, _OF_ADDRESS_AT_ONCE))
        self._costs.move_to_end(address)
        if len(self._costs) > _MOST_REMEMBERED:
            self._costs.popitem(last=False)
        bucket.spend(seconds, _now())

    def _give_back(self) -> None:
        self._num_free += 1
        self._give_turns()

    def _debt(self, address: str) -> float:
        bucket = self._costs.get(address)
        return 0.0 if bucket is None else bucket.spend(0.0, _now())


def _now() -> float:
    return asyncio.get_running_loop().time()
