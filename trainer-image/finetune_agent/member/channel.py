"""The channel: one WebSocket to the coordinator, opened again for ever. URL, CA and token are read anew at every connect.

What is said while nobody listens is dropped: the next `hello` carries the whole state. A refused token never stops training.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from random import Random

import aiohttp
from pydantic import ValidationError

from finetune_contract.backoff import Backoff
from finetune_contract.messages import Hello
from finetune_contract.orders import Order, parse_order
from finetune_contract.times import (
    CONNECT_SECONDS,
    FIRST_RECONNECT_SECONDS,
    HANDSHAKE_SECONDS,
    HEARTBEAT_SECONDS,
    LONGEST_RECONNECT_SECONDS,
)
from finetune_contract.values import Value, render_message

_BACKOFF = Backoff(first_seconds=FIRST_RECONNECT_SECONDS, longest_seconds=LONGEST_RECONNECT_SECONDS)

_log = logging.getLogger(__name__)


class Channel:
    """`run` once; whatever is said before is dropped."""

    def __init__(self, *, folder: Path, token_file: Path, random: Random) -> None:
        self._folder, self._token_file, self._random = folder, token_file, random
        self._outbox: asyncio.Queue[str] | None = None
        self.lost_at: float | None = None  # loop time since when nobody listens; None while connected

    @property
    def is_connected(self) -> bool:
        return self._outbox is not None

    def send(self, message: Value) -> None:
        """Never waits. Dropped while disconnected."""
        if self._outbox is not None:
            self._outbox.put_nowait(render_message(message))

    async def flush(self, seconds: float) -> None:
        """Wait until all that was sent is on the wire, for `seconds` at most."""
        if self._outbox is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._outbox.join()

    async def run(self, *, hello: Callable[[], Hello], obey: Callable[[Order], None]) -> None:
        """For ever. `hello` renders the member's state; `obey` takes each order and must not wait."""
        clock = asyncio.get_running_loop().time
        self.lost_at = clock()
        num_failures = 0
        while True:
            try:
                await self._converse(hello, obey)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                _log.warning("no channel to the coordinator: %s: %s", type(error).__name__, error)
            if self._outbox is not None:
                num_failures = 0
                self._outbox, self.lost_at = None, clock()
            num_failures += 1
            await asyncio.sleep(_BACKOFF.spread_after(num_failures, self._random))

    async def _converse(self, hello: Callable[[], Hello], obey: Callable[[Order], None]) -> None:
        url = (self._folder / "url").read_text().strip()
        headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            connecting = session.ws_connect(url, headers=headers, ssl=self._trust(), heartbeat=HEARTBEAT_SECONDS, max_msg_size=1 << 20)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                socket = await connecting
            async with socket:
                await self._talk(socket, hello(), obey)

    def _trust(self) -> ssl.SSLContext | bool:
        bundle = self._folder / "ca.crt"
        return ssl.create_default_context(cafile=str(bundle)) if bundle.exists() else True

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse, hello: Hello, obey: Callable[[Order], None]) -> None:
        outbox: asyncio.Queue[str] = asyncio.Queue()
        outbox.put_nowait(render_message(hello))
        self._outbox, self.lost_at = outbox, None
        _log.info("channel is open")
        writer = asyncio.create_task(_write(outbox, socket))
        try:
            async for frame in socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    _take(frame.data, obey)
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, aiohttp.ClientError):
                await writer


async def _write(outbox: asyncio.Queue[str], socket: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        frame = await outbox.get()
        await socket.send_str(frame)
        outbox.task_done()


def _take(frame: str, obey: Callable[[Order], None]) -> None:
    try:
        order = parse_order(frame)
    except ValidationError as error:
        _log.warning("an order was not understood and is left out: %s", error)
        return
    obey(order)
