"""One open WebSocket of one member: orders wait here, and go out one by one."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from aiohttp import WSCloseCode, web

from finetune_contract.orders import Exit, Order, Start, Stop
from finetune_contract.values import render_message
from finetune_operator.coordinator.door import Guest
from finetune_operator.coordinator.identity import MemberIdentity
from finetune_operator.times import REPEAT_ORDER_SECONDS, SEND_SECONDS

log = logging.getLogger(__name__)

_MAX_WAITING_ORDERS = 64


class Connection:
    """`silence_seconds`: after so long without a byte it is half-open, for a ping would have been answered."""

    def __init__(self, socket: web.WebSocketResponse, guest: Guest, identity: MemberIdentity, silence_seconds: float) -> None:
        self.socket, self.guest, self.identity = socket, guest, identity
        self._silence_seconds = silence_seconds
        self._orders: asyncio.Queue[Order] = asyncio.Queue(_MAX_WAITING_ORDERS)
        self._sent_at: dict[type[Order], tuple[Order, datetime]] = {}

    @property
    def is_at_home(self) -> bool:
        """It comes from the pod of its token."""
        return self.guest.address in self.identity.addresses

    @property
    def is_alive(self) -> bool:
        return asyncio.get_running_loop().time() - self.guest.heard_at < self._silence_seconds

    def put(self, order: Order, now: datetime, render: Callable[[Order], Order]) -> bool:
        """False if too many wait. An order that went this way a moment ago is left out: passes are decided faster than agents answer."""
        if self._is_repeated(order, now):
            return True
        try:
            self._orders.put_nowait(render(order))
        except asyncio.QueueFull:
            return False
        return True

    async def write_orders(self) -> None:
        """Send orders one by one; a peer that takes none is disconnected, so that its agent connects again."""
        while not self.socket.closed:
            order = await self._orders.get()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self.socket.send_str(render_message(order))
            except (TimeoutError, ConnectionError):
                await self.close("the member does not take its orders")
                return

    async def close(self, why: str) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.socket.close(code=WSCloseCode.GOING_AWAY, message=why.encode())
        except (TimeoutError, ConnectionError):
            log.debug("a channel did not close in time")

    def _is_repeated(self, order: Order, now: datetime) -> bool:
        if not isinstance(order, (Start, Stop, Exit)):
            return False
        before = self._sent_at.get(type(order))
        if before is not None and before[0] == order and now - before[1] < timedelta(seconds=REPEAT_ORDER_SECONDS):
            return True
        self._sent_at[type(order)] = (order, now)
        return False


def why_refused(newer: Connection, older: Connection | None, *, was_at_home: bool, has_budget: bool) -> tuple[str, str] | None:
    """A word and a reason for not letting a member speak here; None if it may.

    A member that has spoken from an address of its pod before is believed from nowhere else, also while it is silent: in this cluster
    addresses come as they are, so somebody else has its token.
    """
    if older is not None and not _may_take_over(newer, older, has_budget):
        return "second", "this member is connected already"
    if was_at_home and newer.identity.addresses and not newer.is_at_home:
        return "elsewhere", "this is no address of the member's pod"
    return None


def _may_take_over(newer: Connection, older: Connection, has_budget: bool) -> bool:
    """Whether a second connection of a member replaces the first.

    A connection from the member's own pod wins over one from elsewhere, which a copied token made. Between two of a kind the newer
    wins if it comes from the same address, as an agent that connects again does, but not again and again; else a living one stays.
    """
    if newer.is_at_home != older.is_at_home:
        return newer.is_at_home
    return not older.is_alive or (newer.guest.address == older.guest.address and has_budget)
