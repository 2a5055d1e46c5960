"""The coordinator: one authenticated WebSocket for each agent, their sessions, and orders to them.

It decides nothing and waits for no answer: what agents say goes into the session table and wakes the job; an order to an absent
agent is dropped, because the agent's next `hello` says what it knows.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from finetune_contract.messages import (
    Commit,
    Exit,
    FromAgent,
    Hello,
    Inspect,
    Probe,
    Progress,
    Start,
    Stop,
    parse_from_agent,
    render_message,
)
from finetune_operator.coordinator.sessions import SessionTable
from finetune_operator.decide.observed import Session
from finetune_operator.reconcile.ports import Clock

log = logging.getLogger(__name__)
Order = Start | Stop | Commit | Probe | Inspect | Exit

CHANNEL_PATH = "/channel"
_HEARTBEAT_SECONDS = 1.2  # a member that is cut off is silent for 1.8 s at most before its peers are asked
_MOST_AT_FULL_PACE = 1000  # connections; more of them share the pace, so that heartbeats cost the same at any number
_HELLO_SECONDS = 10.0
_SEND_SECONDS = 10.0
_PROGRESS_SECONDS = 1.0
_MAX_FRAME_BYTES = 1024 * 1024
_MAX_WAITING_ORDERS = 64
_REPEAT_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True)
class MemberIdentity:
    """Who the bearer of a token is: it speaks for this member of this job and nobody else."""

    member_uid: str
    job_uid: str


class TokenRefused(Exception):
    """The token proves nothing; the message says why and holds no part of the token."""


Authenticate = Callable[[str], Awaitable[MemberIdentity]]  # raises TokenRefused


def heartbeat_seconds(num_connected: int) -> float:
    """Pace of the pings of one more connection; an answer may take half of it."""
    return _HEARTBEAT_SECONDS * max(1.0, num_connected / _MOST_AT_FULL_PACE)


class _Connection:
    """One open WebSocket of one member."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.orders: asyncio.Queue[Order] = asyncio.Queue(_MAX_WAITING_ORDERS)
        self._sent_at: dict[type[Order], tuple[Order, datetime]] = {}

    def is_repeated(self, order: Order, now: datetime) -> bool:
        """The same order went this way a moment ago: passes are decided faster than an agent answers."""
        if not isinstance(order, (Start, Stop, Exit)):
            return False
        before = self._sent_at.get(type(order))
        if before is not None and before[0] == order and now - before[1] < _REPEAT_AFTER:
            return True
        self._sent_at[type(order)] = (order, now)
        return False


class Coordinator:
    """Implements the port `Agents`. `on_change` puts a job (by uid) into the queue; `start` opens the channel, `stop` closes it."""

    def __init__(self, *, clock: Clock, authenticate: Authenticate, on_change: Callable[[str], None]) -> None:
        self._clock, self._authenticate, self._on_change = clock, authenticate, on_change
        self._table = SessionTable()
        self._connections: dict[str, _Connection] = {}
        self._told_at: dict[str, float] = {}
        self._telling: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to tasks
        self._runner: web.AppRunner | None = None

    def observe(self, job_uid: str) -> tuple[Session, ...]:
        return self._table.of_job(job_uid)

    def send(self, member_uid: str, order: Order) -> None:
        connection = self._connections.get(member_uid)
        if connection is None or connection.is_repeated(order, self._clock.now()):
            return
        try:
            connection.orders.put_nowait(order)
        except asyncio.QueueFull:
            log.warning("member takes no orders, its channel is closed", extra={"member": member_uid})
            self._close(connection, "orders are not taken")

    def forget(self, member_uid: str) -> None:
        self.drop(member_uid)
        self._table.forget(member_uid)

    def drop(self, member_uid: str) -> None:
        """Close the member's channel (its pod is gone); what it said is kept."""
        connection = self._connections.pop(member_uid, None)
        if connection is not None:
            self._table.disconnect(member_uid, self._clock.now())
            self._close(connection, "member is gone")

    def forget_jobs_except(self, job_uids: frozenset[str]) -> None:
        """Drop everything about jobs that do not exist any more."""
        for job_uid in set(self._table.job_uids()) - job_uids:
            for session in self._table.of_job(job_uid):
                self.forget(session.member_uid)
        for job_uid in set(self._told_at) - job_uids:
            del self._told_at[job_uid]

    @property
    def num_connected(self) -> int:
        return len(self._connections)

    async def start(self, host: str | None, port: int, ssl_context: ssl.SSLContext | None = None) -> int:
        """Listen (`host` None: everywhere); the port, which `port` 0 leaves to the system."""
        app = web.Application()
        app.router.add_get(CHANNEL_PATH, self._serve)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, host, port, ssl_context=ssl_context, backlog=1024, reuse_address=True)
        await site.start()
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and close every channel; sessions are kept as disconnected."""
        runner, self._runner = self._runner, None
        for uid in list(self._connections):
            self.drop(uid)
        for timer in self._telling.values():
            timer.cancel()
        self._telling.clear()
        if runner is not None:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return web.json_response({"error": "wanted a header Authorization: Bearer TOKEN"}, status=401)
        try:
            identity = await self._authenticate(token)
        except TokenRefused as refusal:
            log.info("a member's token was refused: %s", refusal)
            return web.json_response({"error": str(refusal)}, status=401)
        socket = web.WebSocketResponse(heartbeat=heartbeat_seconds(self.num_connected), max_msg_size=_MAX_FRAME_BYTES, timeout=2.0)
        await socket.prepare(request)
        hello = await self._receive_hello(socket, identity)
        if hello is not None:
            await self._converse(_Connection(socket), hello)
        return socket

    async def _receive_hello(self, socket: web.WebSocketResponse, identity: MemberIdentity) -> Hello | None:
        """The first message, if it is a `hello` of the token's member; else the socket is closed with the reason."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                first = await socket.receive()
            message = parse_from_agent(first.data) if first.type is WSMsgType.TEXT else None
        except (TimeoutError, ValidationError):
            message = None
        if not isinstance(message, Hello):
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the first message must be hello")
            return None
        if (message.member_uid, message.job_uid) != (identity.member_uid, identity.job_uid):
            log.warning("a hello was refused: it names another member than its token", extra={"member": identity.member_uid})
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"hello names another member than the token")
            return None
        return message

    async def _converse(self, connection: _Connection, hello: Hello) -> None:
        uid, job_uid = hello.member_uid, hello.job_uid
        older = self._connections.get(uid)
        self._connections[uid] = connection
        if older is not None:
            self._close(older, "replaced by a newer connection")
        self._table.greet(hello, self._clock.now())
        self._tell(job_uid)
        log.info("member connected", extra={"member": uid, "formation": hello.formation})
        writer = asyncio.create_task(_write_orders(connection), name=f"orders to {uid}")
        try:
            async for frame in connection.socket:
                if self._connections.get(uid) is not connection:
                    break
                if frame.type is WSMsgType.TEXT:
                    self._receive(uid, job_uid, frame.data)
        finally:
            writer.cancel()
            if self._connections.get(uid) is connection:
                del self._connections[uid]
                self._table.disconnect(uid, self._clock.now())
                log.info("member disconnected", extra={"member": uid})
                self._tell(job_uid)

    def _receive(self, uid: str, job_uid: str, frame: str) -> None:
        try:
            message: FromAgent = parse_from_agent(frame)
        except ValidationError as error:
            log.warning("a message was ignored: %s", error.errors(include_url=False, include_input=False)[0]["msg"], extra={"member": uid})
            return
        if isinstance(message, Hello) and (message.member_uid, message.job_uid) != (uid, job_uid):
            log.warning("a hello was ignored: it names another member", extra={"member": uid})
            return
        if isinstance(message, Hello):
            self._table.greet(message, self._clock.now())
        else:
            self._table.hear(uid, message, self._clock.now())
        if isinstance(message, Progress):
            self._tell_soon(job_uid)
        else:
            self._tell(job_uid)

    def _tell(self, job_uid: str) -> None:
        timer = self._telling.pop(job_uid, None)
        if timer is not None:
            timer.cancel()
        self._told_at[job_uid] = asyncio.get_running_loop().time()
        self._on_change(job_uid)

    def _tell_soon(self, job_uid: str) -> None:
        """Progress wakes a job at most once a second."""
        if job_uid in self._telling:
            return
        loop = asyncio.get_running_loop()
        due = self._told_at.get(job_uid, float("-inf")) + _PROGRESS_SECONDS
        if due <= loop.time():
            self._tell(job_uid)
        else:
            self._telling[job_uid] = loop.call_at(due, self._tell, job_uid)

    def _close(self, connection: _Connection, why: str) -> None:
        task = asyncio.get_running_loop().create_task(_close(connection.socket, why))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(socket: web.WebSocketResponse, why: str) -> None:
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=why.encode())
    except (TimeoutError, ConnectionError):
        log.debug("a channel did not close in time")


async def _write_orders(connection: _Connection) -> None:
    """Send orders one by one; a peer that takes none is disconnected, so that its agent connects again."""
    while not connection.socket.closed:
        order = await connection.orders.get()
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await connection.socket.send_str(render_message(order))
        except (TimeoutError, ConnectionError):
            await _close(connection.socket, "orders are not taken")
            return
