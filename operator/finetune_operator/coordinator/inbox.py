"""What connected members say: read at each member's pace, checked, put into the session table; then its job is woken.

What a member says is paid by that member: a message beyond the contract's bounds is counted and dropped, and one that says too much
for too long is disconnected.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from aiohttp import WSMsgType
from pydantic import ValidationError

from finetune_contract.messages import FromAgent, Hello, parse_from_agent
from finetune_contract.reports import Progress, StorageState, Warned
from finetune_operator.coordinator.connection import Connection
from finetune_operator.coordinator.identity import MemberIdentity
from finetune_operator.coordinator.pace import MemberPace
from finetune_operator.coordinator.refusals import Refusals, describe
from finetune_operator.coordinator.sessions import SessionTable
from finetune_operator.coordinator.wakes import StorageGate, Wakes
from finetune_operator.reconcile.ports import Clock
from finetune_operator.times import LONGEST_SLOWING_SECONDS


class Inbox:
    """Keeps what members said when their connections end, until a member is forgotten."""

    def __init__(self, *, clock: Clock, on_change: Callable[[str], None], refusals: Refusals) -> None:
        self._clock, self._refusals = clock, refusals
        self._wakes = Wakes(on_change)
        self._stores: dict[str, StorageGate] = {}
        self.sessions = SessionTable()
        self.paces: defaultdict[str, MemberPace] = defaultdict(MemberPace)

    def greet(self, hello: Hello) -> None:
        self.sessions.greet(hello, self._clock.now())
        self._wake(hello.member_uid, hello.job_uid)

    async def listen(self, connection: Connection, is_current: Callable[[], bool]) -> None:
        """Until the channel ends or another one `is_current`; between two messages everybody else has a turn."""
        identity, pace = connection.identity, self.paces[connection.identity.member_uid]
        async for frame in connection.socket:
            if not is_current():
                return
            wait = pace.receive(len(frame.data) if isinstance(frame.data, str | bytes) else 0, _now())
            if pace.is_out_of_patience(_now()):
                self._refusals.note(identity.member_uid, "pace", "a member sends too many messages, its channel is closed")
                await connection.close("too many messages")
                return
            if frame.type is WSMsgType.TEXT:
                self._receive(identity, frame.data)
            elif frame.type is WSMsgType.PING:
                await connection.socket.pong(frame.data)
            await asyncio.sleep(min(wait, LONGEST_SLOWING_SECONDS))

    def disconnect(self, identity: MemberIdentity) -> None:
        """Its channel ended by itself."""
        self.sessions.disconnect(identity.member_uid, self._clock.now())
        self._wake(identity.member_uid, identity.job_uid)

    def forget(self, member_uid: str) -> None:
        self.sessions.forget(member_uid)
        self.paces.pop(member_uid, None)
        store = self._stores.pop(member_uid, None)
        if store is not None:
            store.close()

    def forget_jobs_except(self, job_uids: frozenset[str]) -> None:
        """What is kept of jobs and of members beside their sessions."""
        for uid in [uid for uid in self.paces if self.sessions.get(uid) is None]:
            del self.paces[uid]
        self._refusals.forget_members_except(lambda uid: self.sessions.get(uid) is not None)
        self._wakes.forget_except(job_uids)

    def close(self) -> None:
        """Whoever was to be woken later is not."""
        self._wakes.stop()
        for store in self._stores.values():
            store.close()

    def _receive(self, identity: MemberIdentity, frame: str) -> None:
        uid, job_uid = identity.member_uid, identity.job_uid
        try:
            message: FromAgent = parse_from_agent(frame)
        except ValidationError as error:
            self._refusals.note(uid, "message", f"a message was ignored: {describe(error)}")
            return
        if not identity.may_say(message):
            what = "hello" if isinstance(message, Hello) else "message"
            self._refusals.note(uid, what, f"a {what} was ignored: it names another member or another run than its token")
            return
        if isinstance(message, StorageState):
            self._stores.setdefault(uid, StorageGate(lambda state: self._hear_storage(uid, job_uid, state))).offer(message)
        elif isinstance(message, Hello):
            self.greet(message)
        else:
            self.sessions.hear(uid, message, self._clock.now())
            if isinstance(message, Progress | Warned):
                self._wakes.soon(job_uid)
            else:
                self._wake(uid, job_uid)

    def _hear_storage(self, uid: str, job_uid: str, state: StorageState) -> None:
        self.sessions.hear(uid, state, self._clock.now())
        self._wakes.soon(job_uid)

    def _wake(self, uid: str, job_uid: str) -> None:
        """At once, as far as the budget of the member goes."""
        if self.paces[uid].wakes.take(_now()):
            self._wakes.now(job_uid)
        else:
            self._wakes.soon(job_uid)


def _now() -> float:
    return asyncio.get_running_loop().time()
