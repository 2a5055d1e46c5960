"""Reachability among agents: a listener that accepts and closes, and the attempt to be accepted by a peer's. Carries no data.

The kernel accepts for a process that is stopped or hangs; that the peer closes shows that it lives.
"""

import asyncio
import contextlib

from finetune_contract.times import PROBE_ANSWER_SECONDS


async def listen(address: str) -> asyncio.Server:
    """On the member's own address and a free port; `port_of` tells which."""

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return await asyncio.start_server(close, host=address, port=0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def is_reachable(address: str) -> bool:
    """`address` is HOST:PORT (an IPv6 host in brackets or bare)."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                return await reader.read(1) == b""
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
