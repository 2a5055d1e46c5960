"""A proxy before an S3 server that does what networks and stores do: refuse, stall, reset, slow down, drop a header, be away.

    proxy = StoreProxy(upstream_port)
    await proxy.open()                                  # http://127.0.0.1:<proxy.port>
    proxy.meddle = lambda request: Meddling(refusal=(503, "SlowDown")) if request.method == "PUT" else Meddling()
    await proxy.shut()                                  # connections are refused until it is opened again

One request a connection, bodies with a length. It runs in the loop of the test, so that a test may act at an exact byte.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_PIECE_BYTES = 8192
_BUFFER_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


@dataclass(frozen=True, kw_only=True)
class Request:
    """The head of one request. Names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        return int(self.headers.get("content-length", 0))

    @property
    def is_state(self) -> bool:
        """An upload of a state, or of a part of one."""
        return self.method == "PUT" and "/state/" in self.target

    @property
    def is_manifest(self) -> bool:
        return self.method == "PUT" and "/commit/" in self.target


@dataclass(frozen=True, kw_only=True)
class Meddling:
    """What happens to one request; as it stands, nothing. Bytes are those of the body: of a PUT the request's, else the answer's."""

    refusal: tuple[int, str] | None = None  # HTTP status and S3's code
    never_answers: bool = False
    resets_at: int | None = None
    calls_at: int | None = None
    calls: Callable[[], object] | None = None  # when exactly so many bytes of a PUT were passed on; what follows goes nowhere
    strips: frozenset[str] = frozenset()
    bytes_per_second: float | None = None


class _Reset(Exception):
    """The connection ends here, with RST."""


@dataclass(kw_only=True)
class StoreProxy:
    """`requests` holds all that came, also those that were refused."""

    upstream_port: int
    port: int = 0
    meddle: Callable[[Request], Meddling] = lambda _request: Meddling()
    requests: list[Request] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # else a slow proxy swallows megabytes at once
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_BUFFER_BYTES)

    async def shut(self) -> None:
        """Refuse connections and cut those that are open."""
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = parse_head(await reader.readuntil(b"\r\n\r\n"))
            self.requests.append(request)
            how = self.meddle(request)
            if "expect" in request.headers:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if how.never_answers:
                while await reader.read(_PIECE_BYTES):
                    pass
            elif how.refusal is not None:
                await reader.readexactly(request.num_bytes)
                writer.write(render_refusal(*how.refusal))
                await writer.drain()
            else:
                await self._pass_on(request, how, reader, writer)
        except _Reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _pass_on(self, request: Request, how: Meddling, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        try:
            to_upstream.write(render_head(request, how.strips))
            await self._pass_request_body(request, how, reader, to_upstream)
            head = await upstream.readuntil(b"\r\n\r\n")
            writer.write(head)
            passed, resets_at = 0, how.resets_at if request.method == "GET" else None
            while piece := await upstream.read(_PIECE_BYTES):
                if resets_at is not None and passed + len(piece) > resets_at:
                    writer.write(piece[: resets_at - passed])
                    await writer.drain()
                    raise _Reset
                writer.write(piece)
                passed += len(piece)
                await _pace(how, len(piece), writer)
        finally:
            to_upstream.close()

    async def _pass_request_body(
        self, request: Request, how: Meddling, reader: asyncio.StreamReader, to_upstream: asyncio.StreamWriter
    ) -> None:
        cut = how.calls_at if how.calls is not None else how.resets_at if request.method == "PUT" else None
        left = request.num_bytes if cut is None else min(cut, request.num_bytes)
        while left > 0:
            piece = await reader.read(min(_PIECE_BYTES, left))
            if not piece:
                raise ConnectionError
            to_upstream.write(piece)
            left -= len(piece)
            await _pace(how, len(piece), to_upstream)
        if cut is not None and how.calls is not None:
            await to_upstream.drain()
            how.calls()
            if cut >= request.num_bytes:
                return  # all of it is there: the store keeps it, whoever is dead
        if cut is not None:
            raise _Reset


async def _pace(how: Meddling, num_bytes: int, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    if how.bytes_per_second is not None:
        await asyncio.sleep(num_bytes / how.bytes_per_second)


def parse_head(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return Request(method=method, target=target, headers={name.lower(): value.strip() for name, _, value in pairs})


def render_head(request: Request, strips: frozenset[str]) -> bytes:
    dropped = {"connection", "expect", *strips}
    lines = [f"{name}: {value}" for name, value in request.headers.items() if name not in dropped]
    return "\r\n".join([f"{request.method} {request.target} HTTP/1.1", *lines, "connection: close", "", ""]).encode("latin-1")


def render_refusal(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


@contextlib.asynccontextmanager
async def proxied(upstream_port: int):
    proxy = StoreProxy(upstream_port=upstream_port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.shut()
