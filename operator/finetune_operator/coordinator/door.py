"""The door of a port: every connection is counted from the moment it is accepted, before TLS, and must be greeted in time.

    accept --may it call?--> room --> TLS handshake --> request --> greeted --> lost
         |_ no: closed at once                        |__ waits, until it is greeted; after `wait_again` too
                                                         late, or the oldest when room is wanted: aborted

It knows neither tokens nor messages; `greet` says that a connection has proved who it is or has sent a whole request.
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

from finetune_operator.coordinator.callers import Callers
from finetune_operator.times import GREET_SECONDS, OUT_OF_DESCRIPTORS_SECONDS

log = logging.getLogger(__name__)
_TLS_READ_BYTES = 32 * 1024  # asyncio reserves 256 KiB for each connection; a record of TLS has 16 KiB
_BACKLOG = 1024
_SPARE_DESCRIPTORS = 256  # for the API server, files and the webhook


@dataclass(frozen=True, kw_only=True)
class DoorLimits:
    """Connections, in all and of one source address; `waiting` are those that are not greeted."""

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
    is_idle: bool = False  # nothing came since its last answer
    deadline: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    transport: asyncio.BaseTransport | None = None
    protocol: asyncio.Protocol | None = None


class _Doorway(asyncio.Protocol):
    """Stands before aiohttp's protocol: notes each sign of life and the end."""

    def __init__(self, inner: asyncio.Protocol, guest: Guest, door: "Door") -> None:
        self._inner, self._guest, self._door = inner, guest, door
        self._clock = asyncio.get_running_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guest.transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._guest.heard_at = self._clock()
        if self._guest.is_idle:
            self._door.wait_for_request(self._guest)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.lose(self._guest)
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
        self._callers = Callers()
        self._guests: dict[asyncio.Protocol, Guest] = {}
        self._num, self._num_waiting = 0, 0
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def num_connections(self) -> int:
        return self._num

    def open(self, host: str | None, port: int, context: ssl.SSLContext | None) -> int:
        """Listen (`host` None: everywhere); the port, which `port` 0 leaves to the system."""
        asyncio.sslproto.SSLProtocol.max_size = _TLS_READ_BYTES
        self._total = min(self._limits.total, _descriptors() - _SPARE_DESCRIPTORS)
        self._listener = _listen(host, port)
        self._accepting = asyncio.create_task(self._accept(self._listener, context), name=f"door of port {port}")
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
                self.send_away(guest)

    def guest_of(self, request: web.BaseRequest) -> Guest | None:
        return self._guests.get(request.protocol)

    def greet(self, guest: Guest) -> None:
        """It has proved who it is, or sent a whole request: the deadline is lifted."""
        self._stop_waiting(guest)
        guest.is_greeted, guest.is_idle = True, False

    def wait_again(self, guest: Guest, seconds: float) -> None:
        """It was answered: its next request may begin within `seconds`, and then has the time that the first one had."""
        if guest.protocol is not None and self._guests.get(guest.protocol) is guest:
            self._wait(guest, seconds)
            guest.is_greeted, guest.is_idle = False, True

    def wait_for_request(self, guest: Guest) -> None:
        """The first byte of a request has come."""
        guest.is_idle = False
        self._wait(guest, self._limits.greet_seconds)

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
            if self._may_come(address, loop.time()):
                self._let_in(connection, address, context)
            else:
                connection.close()
                self._on_refused("connection")
            await asyncio.sleep(0)  # a connection that waits already is taken without a turn of the loop

    def _may_come(self, address: str, now: float) -> bool:
        """Room is made for it by whoever has waited longest: of its own address first, else of the address with most that wait."""
        limits, crowd = self._limits, self._crowds.get(address, _Crowd())
        if not self._callers.may_call(address, now, is_known=crowd.num > len(crowd.waiting)):
            return False
        if len(crowd.waiting) >= limits.waiting_of_address or crowd.num >= limits.of_address:
            return self._make_room(crowd)
        if self._num_waiting >= limits.waiting or self._num >= self._total:
            return self._make_room(max(self._crowds.values(), key=lambda other: len(other.waiting)))
        return True

    def _make_room(self, crowd: _Crowd) -> bool:
        oldest = next(iter(crowd.waiting), None)
        if oldest is not None:
            self._on_refused("connection")
            self.send_away(oldest)
        return oldest is not None

    def _let_in(self, connection: socket.socket, address: str, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        guest = Guest(address=address, heard_at=loop.time())
        self._crowds.setdefault(address, _Crowd()).num += 1
        self._num += 1
        self._wait(guest, self._limits.greet_seconds)
        guest.task = loop.create_task(self._shake_hands(guest, connection, context))

    def _wait(self, guest: Guest, seconds: float) -> None:
        """As the last of those that wait."""
        self._stop_waiting(guest)
        self._crowds[guest.address].waiting[guest] = None
        self._num_waiting += 1
        guest.deadline = asyncio.get_running_loop().call_later(seconds, self._give_up, guest)

    async def _shake_hands(self, guest: Guest, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        seconds = None if context is None else self._limits.greet_seconds

        def doorway() -> asyncio.Protocol:
            guest.protocol = self._make_protocol()
            self._guests[guest.protocol] = guest
            return _Doorway(guest.protocol, guest, self)

        try:
            await loop.connect_accepted_socket(doorway, connection, ssl=context, ssl_handshake_timeout=seconds)
        except OSError as error:
            log.debug("a TLS handshake failed: %s", error)
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if guest.transport is None:
                self.lose(guest)

    def _give_up(self, guest: Guest) -> None:
        if not guest.is_idle:
            self._on_refused("late")
        self.send_away(guest)

    def send_away(self, guest: Guest) -> None:
        """Abort its connection."""
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

    def lose(self, guest: Guest) -> None:
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
