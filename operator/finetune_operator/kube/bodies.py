"""Reads the bytes of answers: a page of a list up to a bound, and the lines of a stream. It knows nothing of what is in them."""

from collections.abc import AsyncIterator

import aiohttp

MAX_PAGE_BYTES = 8 * 2**20  # anybody may make objects of a megabyte


class PageTooLong(Exception):
    """More bytes than are read at once: fewer objects have to be asked for."""


async def read_page(stream: aiohttp.StreamReader) -> bytearray:
    """Raises PageTooLong; what is left unread closes the connection."""
    body = bytearray()
    async for chunk in stream.iter_any():
        body += chunk
        if len(body) > MAX_PAGE_BYTES:
            raise PageTooLong
    return body


async def lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; StreamReader.readline refuses a long one, and a pod may be 1 MiB."""
    parts: list[bytes] = []
    async for chunk in stream.iter_any():
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            line = b"".join([*parts, end])
            parts = []
            if line:
                yield line
        if rest:
            parts.append(rest)
