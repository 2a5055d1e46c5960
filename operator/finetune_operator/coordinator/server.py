"""The coordinator: one authenticated WebSocket for each agent, their sessions, and orders to them.

It decides nothing and waits for no answer: what agents say goes into the session table and wakes the job; an order to an absent
agent is dropped, because the agent's next `hello` says what it knows. What a member says is paid by that member: it is read at its
pace, a message beyond the contract's bounds is counted and dropped, and one that says too much for too long is disconnected.
"""

import asyncio
import hmac
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from finetune_contract.messages import MAX_FRAME_BYTES, FromAgent, Hello, Progress, StorageState, Warned, parse_from_agent
from finetune_contract.orders import Order, Start
from finetune_contract.values import changed
from finetune_operator.coordinator.connection import Connection, MemberIdentity, why_refused
from finetune_operator.coordinator.door import DOOR_LIMITS, Door, DoorLimits
from finetune_operator.coordinator.pace import LogBudget, MemberPace
from finetune_operator.coordinator.sessions import SessionTable
from finetune_operator.coordinator.wakes import StorageGate, Wakes
from finetune_operator.decide.facts.observed import Session
from finetune_operator.reconcile.ports import Clock
from finetune_operator.times import LONGEST_SLOWING_SECONDS, PING_SECONDS

__all__ = ["CHANNEL_PATH", "Authenticate", "Coordinator", "MemberIdentity", "TokenRefused", "heartbeat_seconds"]
log = logging.getLogger(__name__)

CHANNEL_PATH = "/channel"
_MOST_AT_FULL_PACE = 1000  # connections; more of them share the pace, so that heartbeats cost the same at any number


class TokenRefused(Exception):
    """The token proves nothing; the message says why and holds no part of the token."""


Authenticate = Callable[[str], Awaitable[MemberIdentity]]  # raises TokenRefused


def heartbeat_seconds(num_connected: int) -> float:
    """Pace of the pings of one more connection; an answer may take half of it."""
    return PING_SECONDS * max(1.0, num_connected / _MOST_AT_FULL_PACE)


class Coordinator:
    """Implements the port `Agents`. `on_change` puts a job (by uid) into the queue; `start` opens the channel, `stop` closes it.

    `store_key` makes the secrets of formations, so the next leader must know the same one. `on_refused` hears what was turned away.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        authenticate: Authenticate,
        on_change: Callable[[str], None],
        store_key: Callable[[], bytes] | None = None,
        on_refused: Callable[[str], None] = lambda what: None,
        limits: DoorLimits = DOOR_LIMITS,
    ) -> None:
        key = secrets.token_bytes(32)
        self._clock, self._authenticate, self._limits, self._refuse = clock, authenticate, limits, on_refused
        self._store_key = store_key or (lambda: key)
        self._wakes = Wakes(on_change)
        self._table = SessionTable()
        self._connections: dict[str, Connection] = {}
        self._paces: dict[str, MemberPace] = {}
        self._stores: dict[str, StorageGate] = {}
        self._closing: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to tasks
        self._strangers = LogBudget()
        self._server: web.Server | None = None
        self._door: Door | None = None

    def observe(self, job_uid: str) -> tuple[Session, ...]:
        return self._table.of_job(job_uid)

    def send(self, member_uid: str, order: Order) -> None:
        connection = self._connections.get(member_uid)
        if connection is None:
            return
        if not connection.put(order, self._clock.now(), lambda order: self._with_secret(connection.identity.job_uid, order)):
            log.warning("member takes no orders, its channel is closed", extra={"member": member_uid})
            self._close(connection, "orders are not taken")

    def forget(self, member_uid: str) -> None:
        self.drop(member_uid)
        self._table.forget(member_uid)
        self._paces.pop(member_uid, None)
        store = self._stores.pop(member_uid, None)
        if store is not None:
            store.close()

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
        for uid in [uid for uid in self._paces if self._table.get(uid) is None]:
            del self._paces[uid]
        self._wakes.forget_except(job_uids)

    @property
    def num_connected(self) -> int:
        return len(self._connections)

    async def start(self, host: str | None, port: int, ssl_context: ssl.SSLContext | None = None) -> int:
        """Listen (`host` None: everywhere); the port, which `port` 0 leaves to the system."""
        server = web.Server(self._serve, access_log=None, max_headers=32, lingering_time=1.0, auto_decompress=False, read_bufsize=1 << 14)
        self._server, self._door = server, Door(self._limits, server, self._refuse)
        return self._door.open(host, port, ssl_context)

    async def stop(self) -> None:
        """Stop listening and close every channel; sessions are kept as disconnected."""
        door, self._door = self._door, None
        server, self._server = self._server, None
        for uid in list(self._connections):
            self.drop(uid)
        self._wakes.stop()
        for store in self._stores.values():
            store.close()
        if door is not None:
            await door.close()
        if server is not None:
            server.pre_shutdown()
            await server.shutdown(1.0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        guest = None if self._door is None else self._door.guest_of(request)
        if guest is None or request.path != CHANNEL_PATH or request.method != "GET":
            return _answer(404, f"wanted a WebSocket at {CHANNEL_PATH}")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return _answer(401, "wanted a header Authorization: Bearer TOKEN")
        try:
            identity = await self._authenticate(token)
        except TokenRefused as refusal:
            self._refuse("token")
            if (left_out := self._strangers.admit(_now())) is not None:
                log.info("a member's token was refused: %s (%d such lines left out)", refusal, left_out)
            return _answer(401, str(refusal))
        heartbeat = heartbeat_seconds(self.num_connected)
        # Pings are answered by hand, for what aiohttp answers by itself has no pace.
        socket = web.WebSocketResponse(heartbeat=heartbeat, max_msg_size=MAX_FRAME_BYTES, timeout=2.0, compress=False, autoping=False)
        await socket.prepare(request)
        connection = Connection(socket, guest, identity, silence_seconds=2 * heartbeat)
        hello = await self._receive_hello(connection)
        if hello is not None:
            await self._converse(connection, hello)
        return socket

    async def _receive_hello(self, connection: Connection) -> Hello | None:
        """The first message, if it is a `hello` of the token's member; else the socket is closed with the reason."""
        socket, identity = connection.socket, connection.identity
        first = await socket.receive()
        while first.type in {WSMsgType.PING, WSMsgType.PONG}:
            await asyncio.sleep(0)
            first = await socket.receive()
        message = None
        if first.type is WSMsgType.TEXT:
            try:
                message = parse_from_agent(first.data)
            except ValidationError as error:
                self._note_refused(identity.member_uid, "hello", f"a hello was refused: {_words(error)}")
        if not isinstance(message, Hello):
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the first message must be hello")
            return None
        if not _is_of(message, identity):
            self._note_refused(identity.member_uid, "hello", "a hello was refused: it names another member than its token")
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"hello names another member than the token")
            return None
        return message

    async def _converse(self, connection: Connection, hello: Hello) -> None:
        uid, job_uid = hello.member_uid, hello.job_uid
        older, pace = self._connections.get(uid), self._paces.setdefault(uid, MemberPace())
        has_budget = older is None or pace.takeovers.take(_now())
        refused = why_refused(connection, older, was_at_home=pace.was_at_home, has_budget=has_budget)
        if refused is not None:
            what, words = refused
            self._note_refused(uid, what, f"a connection was refused: {words}; it came from {connection.guest.address}")
            await connection.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=words.encode())
            return
        pace.was_at_home |= connection.is_at_home
        self._connections[uid] = connection
        if older is not None:
            self._close(older, "replaced by a newer connection")
        if self._door is not None:
            self._door.greet(connection.guest)
        self._table.greet(hello, self._clock.now())
        self._wake(job_uid, pace)
        log.info("member connected", extra={"member": uid, "formation": hello.formation})
        writer = asyncio.create_task(connection.write_orders(), name=f"orders to {uid}")
        try:
            await self._listen(connection, pace)
        finally:
            writer.cancel()
            if self._connections.get(uid) is connection:
                del self._connections[uid]
                self._table.disconnect(uid, self._clock.now())
                log.info("member disconnected", extra={"member": uid})
                self._wake(job_uid, pace)

    async def _listen(self, connection: Connection, pace: MemberPace) -> None:
        """Read at the member's pace until its channel ends; between two messages everybody else has a turn."""
        identity = connection.identity
        async for frame in connection.socket:
            if self._connections.get(identity.member_uid) is not connection:
                return
            wait = pace.receive(len(frame.data) if isinstance(frame.data, str | bytes) else 0, _now())
            if pace.is_out_of_patience(_now()):
                self._note_refused(identity.member_uid, "pace", "a member says more than it may, its channel is closed")
                await connection.close("too many messages")
                return
            if frame.type is WSMsgType.TEXT:
                self._receive(identity, frame.data, pace)
            elif frame.type is WSMsgType.PING:
                await connection.socket.pong(frame.data)
            await asyncio.sleep(min(wait, LONGEST_SLOWING_SECONDS))

    def _receive(self, identity: MemberIdentity, frame: str, pace: MemberPace) -> None:
        uid, job_uid = identity.member_uid, identity.job_uid
        try:
            message: FromAgent = parse_from_agent(frame)
        except ValidationError as error:
            self._note_refused(uid, "message", f"a message was ignored: {_words(error)}")
            return
        if isinstance(message, Hello) and not _is_of(message, identity):
            self._note_refused(uid, "hello", "a hello was ignored: it names another member")
            return
        if isinstance(message, StorageState):
            self._stores.setdefault(uid, StorageGate(lambda state: self._hear_storage(uid, job_uid, state))).offer(message)
        elif isinstance(message, Hello):
            self._table.greet(message, self._clock.now())
            self._wake(job_uid, pace)
        else:
            self._table.hear(uid, message, self._clock.now())
            if isinstance(message, Progress | Warned):
                self._wakes.soon(job_uid)
            else:
                self._wake(job_uid, pace)

    def _hear_storage(self, uid: str, job_uid: str, state: StorageState) -> None:
        self._table.hear(uid, state, self._clock.now())
        self._wakes.soon(job_uid)

    def _wake(self, job_uid: str, pace: MemberPace) -> None:
        """At once, as far as the budget of the member goes."""
        if pace.wakes.take(_now()):
            self._wakes.now(job_uid)
        else:
            self._wakes.soon(job_uid)

    def _with_secret(self, job_uid: str, order: Order) -> Order:
        """The same for all members of a formation, and never written anywhere."""
        if not isinstance(order, Start):
            return order
        secret = hmac.new(self._store_key(), f"store of {job_uid}/{order.formation}".encode(), "sha256").hexdigest()
        return changed(order, store_secret=secret)

    def _note_refused(self, uid: str, what: str, words: str) -> None:
        self._refuse(what)
        left_out = self._paces.setdefault(uid, MemberPace()).log.admit(_now())
        if left_out is not None:
            log.warning("%s (%d such lines left out)", words, left_out, extra={"member": uid})

    def _close(self, connection: Connection, why: str) -> None:
        task = asyncio.get_running_loop().create_task(connection.close(why))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_of(hello: Hello, identity: MemberIdentity) -> bool:
    return (hello.member_uid, hello.job_uid) == (identity.member_uid, identity.job_uid)


def _words(error: ValidationError) -> str:
    """Field and what is wrong with it, never what came."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg'][:200]}"


def _answer(status: int, words: str) -> web.Response:
    response = web.json_response({"error": words}, status=status)
    response.force_close()
    return response
