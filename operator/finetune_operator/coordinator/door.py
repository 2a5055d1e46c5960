"""The door of the channel: every connection is counted from the moment it is accepted, before TLS, and must be greeted in time.

    accept --room, in all and for its address?--> TLS handshake --> request --> hello: greeted --> lost
         |_ no: closed at once                |__ not greeted in time: aborted __|

It knows neither tokens nor messages; `greet` says that a connection has proved who it is.
"""

import asyncio
import asyncio.sslproto
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from finetune_operator.coordinator.pace import Bucket
from finetune_operator.times import GREET_SECONDS, OUT_OF_DESCRIPTORS_SECONDS

log = logging.getLogger(__name__)
_TLS_READ_BYTES = 32 * 1024  # asyncio reserves 256 KiB for each connection; a record of TLS has 16 KiB
_BACKLOG = 1024
_SPARE_DESCRIPTORS = 256  # for the API server, files and the webhook
_CALLS_A_SECOND, _CALLS_AT_ONCE = 50.0, 500.0  # of one address: a handshake costs about 2 ms
_MOST_REMEMBERED = 4096  # addresses


@dataclass(frozen=True, kw_only=True)
class DoorLimits:
    """Connections, in all and of one source address; `waiting` are those that are not greeted yet."""

    total: int = 6000
    of_address: int = 5500  # many nodes may stand behind one address
    waiting: int = 512
    waiting_of_address: int = 64
    greet_seconds: float = GREET_SECONDS


DOOR_LIMITS = DoorLimits()


@dataclass(eq=False, kw_only=True)
class Guest:
    """One connection. `heard_at`: loop time of its last byte."""

    address: str
    heard_at: float
    is_greeted: bool = False
    deadline: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    transport: asyncio.BaseTransport | None = None
    protocol: asyncio.Protocol | None = None


class _Doorway(asyncio.Protocol):
    """Stands before aiohttp's protocol: notes each sign of life and the end."""

    def __init__(self, inner: asyncio.Protocol, guest: Guest, on_lost: Callable[[Guest], None]) -> None:
        self._inner, self._guest, self._on_lost = inner, guest, on_lost
        self._clock = asyncio.get_running_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guest.transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._guest.heard_at = self._clock()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self._guest)
        self._inner.connection_lost(exc)


@dataclass(kw_only=True)
class _Crowd:
    """The connections of one address; those that wait, in the order of their arrival."""

    num: int = 0
    waiting: dict[Guest, None] = field(default_factory=dict)


class Door:
    """`make_protocol` makes the HTTP protocol of one connection. `on_refused` hears a word of a small fixed set."""

    def __init__(self, limits: DoorLimits, make_protocol: Callable[[], asyncio.Protocol], on_refused: Callable[[str], None]) -> None:
        self._limits, self._make_protocol, self._on_refused = limits, make_protocol, on_refused
        self._total = limits.total
        self._crowds: dict[str, _Crowd] = {}
        self._calls: dict[str, Bucket] = {}
        self._guests: dict[asyncio.Protocol, Guest] = {}
        self._num, self._num_waiting = 0, 0
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    def open(self, host: str | None, port: int, context: ssl.SSLContext | None) -> int:
        """Listen (`host` None: everywhere); the port, which `port` 0 leaves to the system."""
        asyncio.sslproto.SSLProtocol.max_size = _TLS_READ_BYTES
        self._total = min(self._limits.total, _descriptors() - _SPARE_DESCRIPTORS)
        self._listener = _listen(host, port)
        self._accepting = asyncio.create_task(self._accept(self._listener, context), name="channel door")
        return int(self._listener.getsockname()[1])

    async def close(self) -> None:
        """Listen no more and abort who is not greeted yet; the others are the coordinator's to close."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait({self._accepting})
        if self._listener is not None:
            self._listener.close()
        for crowd in tuple(self._crowds.values()):
            for guest in tuple(crowd.waiting):
                self._send_away(guest)

    def guest_of(self, request: web.BaseRequest) -> Guest | None:
        return self._guests.get(request.protocol)

    def greet(self, guest: Guest) -> None:
        """It has proved who it is: the deadline is lifted."""
        self._stop_waiting(guest)
        guest.is_greeted = True

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("no connection can be accepted: %s", error)
                await asyncio.sleep(OUT_OF_DESCRIPTORS_SECONDS)
                continue
            address = str(peer[0]).removeprefix("::ffff:")
            if self._has_room(address, loop.time()):
                self._let_in(connection, address, context)
            else:
                connection.close()
                self._on_refused("connection")
            await asyncio.sleep(0)  # a connection that waits already is taken without a turn of the loop

    def _has_room(self, address: str, now: float) -> bool:
        limits, crowd = self._limits, self._crowds.get(address, _Crowd())
        if not self._may_call(address, now) or self._num >= self._total or crowd.num >= limits.of_address:
            return False
        if len(crowd.waiting) >= limits.waiting_of_address:
            return False
        if self._num_waiting < limits.waiting:
            return True
        largest = max(self._crowds.values(), key=lambda other: len(other.waiting))
        if len(largest.waiting) <= len(crowd.waiting) + 1:
            return False
        self._send_away(next(iter(largest.waiting)))
        return True

    def _may_call(self, address: str, now: float) -> bool:
        bucket = self._calls.pop(address, None) or Bucket(_CALLS_A_SECOND, _CALLS_AT_ONCE)
        self._calls[address] = bucket  # the newest stand last
        if len(self._calls) > _MOST_REMEMBERED:
            del self._calls[next(iter(self._calls))]
        return bucket.take(now)

    def _let_in(self, connection: socket.socket, address: str, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        guest = Guest(address=address, heard_at=loop.time())
        crowd = self._crowds.setdefault(address, _Crowd())
        crowd.num += 1
        crowd.waiting[guest] = None
        self._num, self._num_waiting = self._num + 1, self._num_waiting + 1
        guest.deadline = loop.call_later(self._limits.greet_seconds, self._give_up, guest)
        guest.task = loop.create_task(self._shake_hands(guest, connection, context))

    async def _shake_hands(self, guest: Guest, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        seconds = None if context is None else self._limits.greet_seconds

        def doorway() -> asyncio.Protocol:
            guest.protocol = self._make_protocol()
            self._guests[guest.protocol] = guest
            return _Doorway(guest.protocol, guest, self._lose)

        try:
            await loop.connect_accepted_socket(doorway, connection, ssl=context, ssl_handshake_timeout=seconds)
        except OSError as error:
            log.debug("a TLS handshake failed: %s", error)
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if guest.transport is None:
                self._lose(guest)

    def _give_up(self, guest: Guest) -> None:
        self._on_refused("late")
        self._send_away(guest)

    def _send_away(self, guest: Guest) -> None:
        if guest.transport is not None:
            guest.transport.abort()  # type: ignore[attr-defined]  # every transport of a socket has it
        elif guest.task is not None:
            guest.task.cancel()
        self._stop_waiting(guest)

    def _stop_waiting(self, guest: Guest) -> None:
        crowd = self._crowds.get(guest.address)
        if guest.deadline is not None:
            guest.deadline.cancel()
        if crowd is not None and guest in crowd.waiting:
            del crowd.waiting[guest]
            self._num_waiting -= 1

    def _lose(self, guest: Guest) -> None:
        """The end of a connection, however it came; called once."""
        self._stop_waiting(guest)
        if guest.protocol is not None:
            self._guests.pop(guest.protocol, None)
        crowd = self._crowds[guest.address]
        crowd.num -= 1
        self._num -= 1
        if crowd.num == 0:
            del self._crowds[guest.address]


def _listen(host: str | None, port: int) -> socket.socket:
    if host is None and socket.has_dualstack_ipv6():
        listener = socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
    else:
        family = socket.AF_INET6 if host is not None and ":" in host else socket.AF_INET
        listener = socket.create_server((host or "", port), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def _descriptors() -> int:
    """Files that this process may open, after it has asked for all that it may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else 1 << 20
