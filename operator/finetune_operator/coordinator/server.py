"""The coordinator: one authenticated WebSocket for each agent, their sessions, and orders to them.

    door -> handshake -> inbox -> sessions -> the job is woken
                     <- orders of the next pass

It decides nothing and waits for no answer: an order to an absent agent is dropped, because the agent's next `hello` says what it knows.
"""

import asyncio
import hmac
import logging
import secrets
import ssl
from collections.abc import Callable

from aiohttp import WSCloseCode, web

from finetune_contract.messages import Hello
from finetune_contract.orders import Commit, Order, Start, Stop
from finetune_contract.values import changed
from finetune_operator.coordinator.connection import Connection, why_refused
from finetune_operator.coordinator.door import DOOR_LIMITS, Door, DoorLimits
from finetune_operator.coordinator.handshake import Handshake, heartbeat_seconds
from finetune_operator.coordinator.identity import Authenticate
from finetune_operator.coordinator.inbox import Inbox
from finetune_operator.coordinator.refusals import Refusals
from finetune_operator.decide.facts.observed import Session
from finetune_operator.reconcile.ports import Clock

log = logging.getLogger(__name__)


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
        self._clock, self._limits = clock, limits
        self._store_key = store_key or (lambda: key)
        self._refusals = Refusals(on_refused)
        self._handshake = Handshake(authenticate, self._refusals)
        self._inbox = Inbox(clock=clock, on_change=on_change, refusals=self._refusals)
        self._connections: dict[str, Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()  # the event loop keeps only weak references to tasks
        self._server: web.Server | None = None
        self._door: Door | None = None

    def observe(self, job_uid: str) -> tuple[Session, ...]:
        return self._inbox.sessions.of_job(job_uid)

    def send(self, member_uid: str, order: Order) -> None:
        connection = self._connections.get(member_uid)
        if connection is None:
            return
        if not connection.put(order, self._clock.now(), lambda order: self._address(connection.identity.job_uid, order)):
            log.warning("member does not take its orders, its channel is closed", extra={"member": member_uid})
            self._close(connection, "the member does not take its orders")

    def forget(self, member_uid: str) -> None:
        self.drop(member_uid)
        self._inbox.forget(member_uid)

    def drop(self, member_uid: str) -> None:
        """Close the member's channel (its pod is gone); what it said is kept."""
        connection = self._connections.pop(member_uid, None)
        if connection is not None:
            self._inbox.sessions.disconnect(member_uid, self._clock.now())
            self._close(connection, "member is gone")

    def forget_jobs_except(self, job_uids: frozenset[str]) -> None:
        """Drop everything about jobs that do not exist any more."""
        for job_uid in set(self._inbox.sessions.job_uids()) - job_uids:
            for session in self._inbox.sessions.of_job(job_uid):
                self.forget(session.member_uid)
        self._inbox.forget_jobs_except(job_uids)

    @property
    def num_connected(self) -> int:
        return len(self._connections)

    async def start(self, host: str | None, port: int, ssl_context: ssl.SSLContext | None = None) -> int:
        """Listen (`host` None: everywhere); the port, which `port` 0 leaves to the system."""
        server = web.Server(self._serve, access_log=None, max_headers=32, lingering_time=1.0, auto_decompress=False, read_bufsize=1 << 14)
        self._server, self._door = server, Door(self._limits, server, self._refusals.count)
        return self._door.open(host, port, ssl_context)

    async def stop(self) -> None:
        """Stop listening and close every channel; sessions are kept as disconnected."""
        door, self._door = self._door, None
        server, self._server = self._server, None
        for uid in list(self._connections):
            self.drop(uid)
        self._inbox.close()
        if door is not None:
            await door.close()
        if server is not None:
            server.pre_shutdown()
            await server.shutdown(1.0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        guest = None if self._door is None else self._door.guest_of(request)
        opened = await self._handshake.open(request, guest, heartbeat_seconds(self.num_connected))
        if isinstance(opened, web.Response):
            return opened
        hello = await self._handshake.receive_hello(opened)
        if hello is not None and await self._take_over(opened):
            await self._converse(opened, hello)
        return opened.socket

    async def _take_over(self, connection: Connection) -> bool:
        """The member's only connection is this one from now on; False if it may not speak here, or an older one stays."""
        uid = connection.identity.member_uid
        older, pace = self._connections.get(uid), self._inbox.paces[uid]
        has_budget = older is None or pace.takeovers.take(asyncio.get_running_loop().time())
        refused = why_refused(connection, older, was_at_home=pace.was_at_home, has_budget=has_budget)
        if refused is not None:
            what, words = refused
            self._refusals.note(uid, what, f"a connection was refused: {words}; it came from {connection.guest.address}")
            await connection.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=words.encode())
            return False
        pace.was_at_home |= connection.is_at_home
        self._connections[uid] = connection
        if older is not None:
            self._close(older, "replaced by a newer connection")
        if self._door is not None:
            self._door.greet(connection.guest)
        return True

    async def _converse(self, connection: Connection, hello: Hello) -> None:
        uid = hello.member_uid
        self._inbox.greet(hello)
        log.info("member connected", extra={"member": uid, "formation": hello.formation})
        writer = asyncio.create_task(connection.write_orders(), name=f"orders to {uid}")
        try:
            await self._inbox.listen(connection, lambda: self._connections.get(uid) is connection)
        finally:
            writer.cancel()
            if self._connections.get(uid) is connection:
                del self._connections[uid]
                log.info("member disconnected", extra={"member": uid})
                self._inbox.disconnect(connection.identity)

    def _address(self, run: str, order: Order) -> Order:
        """Orders about a run name it. The secret of a start is the same for all members of a formation, and never written anywhere."""
        if isinstance(order, Start):
            secret = hmac.new(self._store_key(), f"store of {run}/{order.formation}".encode(), "sha256").hexdigest()
            return changed(order, run=run, store_secret=secret)
        return changed(order, run=run) if isinstance(order, Stop | Commit) else order

    def _close(self, connection: Connection, why: str) -> None:
        task = asyncio.get_running_loop().create_task(connection.close(why))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
