"""What agents said, as a table of sessions. Pure: the clock is an argument and nobody is talked to.

A session outlives its connection (`is_connected` False) until it is forgotten.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_contract.messages import FromAgent, Hello, Leaving, Probed
from finetune_operator.coordinator.run_facts import facts_of, hear_of_run
from finetune_operator.decide.facts.observed import Session
from finetune_operator.times import ROWS_TOLD_SECONDS


def greet(hello: Hello, before: Session | None, now: datetime) -> Session:
    """The session that a `hello` opens; what the hello does not say is kept from `before`."""
    return Session(
        member_uid=hello.member_uid,
        is_connected=True,
        changed_at=now,
        contract_version=hello.contract_version,
        oldest_contract_version=hello.oldest_contract_version,
        term=hello.term,
        address=hello.address,
        port=hello.port,
        probe_port=hello.probe_port,
        leaving_until=_in(now, hello.leaving_seconds),
        unreachable_peers=frozenset() if before is None else before.unreachable_peers,
        run=facts_of(hello, None if before is None else before.run, now),
    )


def hear(session: Session, message: FromAgent, now: datetime) -> Session:
    """The session after one more message."""
    if isinstance(message, Hello):
        return greet(message, session, now)
    if isinstance(message, Leaving):
        return replace(session, leaving_until=_in(now, message.seconds))
    if isinstance(message, Probed):
        return _note_reach(session, message)
    return replace(session, run=hear_of_run(message, session.run, now))


def _note_reach(session: Session, message: Probed) -> Session:
    if message.reachable == (message.peer_uid not in session.unreachable_peers):
        return session
    peer = frozenset((message.peer_uid,))
    unreachable = session.unreachable_peers - peer if message.reachable else session.unreachable_peers | peer
    return replace(session, unreachable_peers=unreachable)


def _with_rows(session: Session, rows: tuple[int | None, int | None]) -> Session:
    return replace(session, run=replace(session.run, rows_done=rows[0], rows_total=rows[1]))


def _in(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


class SessionTable:
    """Sessions by member uid, indexed by job. Unknown uids are ignored: a message may come after `forget`."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._job_of: dict[str, str] = {}
        self._members_of: dict[str, set[str]] = {}
        self._rows_at: dict[str, datetime] = {}  # by job: when news about rows were taken last
        self._rows_waiting: dict[str, tuple[int | None, int | None]] = {}  # by member: the newest that were not

    def of_job(self, job_uid: str) -> tuple[Session, ...]:
        return tuple(self._sessions[uid] for uid in sorted(self._members_of.get(job_uid, ())))

    def get(self, member_uid: str) -> Session | None:
        return self._sessions.get(member_uid)

    def job_uids(self) -> tuple[str, ...]:
        return tuple(self._members_of)

    def num_connected(self) -> int:
        return sum(session.is_connected for session in self._sessions.values())

    def greet(self, hello: Hello, now: datetime) -> None:
        """Open or renew a session. What others said about reaching this member is out of date now."""
        uid = hello.member_uid
        self._sessions[uid] = greet(hello, self._sessions.get(uid), now)
        self._job_of[uid] = hello.job_uid
        self._members_of.setdefault(hello.job_uid, set()).add(uid)
        self._is_reached_again(uid, hello.job_uid)

    def hear(self, member_uid: str, message: FromAgent, now: datetime) -> None:
        """Only a member of the same job can be meant by `probed`: a uid that nobody bears is not kept."""
        if isinstance(message, Probed) and message.peer_uid not in self._members_of.get(self._job_of.get(member_uid, ""), ()):
            return
        self._change(member_uid, lambda session: self._pace_rows(session, hear(session, message, now), now))

    def _pace_rows(self, before: Session, after: Session, now: datetime) -> Session:
        """News about rows are taken from all members of a job together, and not too often: each may be a write of its status."""
        uid, old, new = after.member_uid, before.run, after.run
        if (new.phase, new.formation) != (old.phase, old.formation):
            self._rows_waiting.pop(uid, None)
            return after
        rows = (new.rows_done, new.rows_total)
        if rows == (old.rows_done, old.rows_total):
            return after
        job_uid = self._job_of[uid]
        at = self._rows_at.get(job_uid)
        if at is not None and timedelta(0) <= now - at < timedelta(seconds=ROWS_TOLD_SECONDS):
            self._rows_waiting[uid] = rows
            return _with_rows(after, (old.rows_done, old.rows_total))
        self._rows_at[job_uid] = now
        self._rows_waiting.pop(uid, None)
        for other in self._members_of[job_uid] & self._rows_waiting.keys():
            self._sessions[other] = _with_rows(self._sessions[other], self._rows_waiting.pop(other))
        return after

    def disconnect(self, member_uid: str, now: datetime) -> None:
        self._change(member_uid, lambda session: replace(session, is_connected=False, changed_at=now))

    def forget(self, member_uid: str) -> None:
        if self._sessions.pop(member_uid, None) is not None:
            job_uid = self._job_of.pop(member_uid)
            self._members_of[job_uid].discard(member_uid)
            self._rows_waiting.pop(member_uid, None)
            self._is_reached_again(member_uid, job_uid)
            if not self._members_of[job_uid]:
                del self._members_of[job_uid]
                self._rows_at.pop(job_uid, None)

    def _is_reached_again(self, member_uid: str, job_uid: str) -> None:
        for peer in self._members_of[job_uid]:
            session = self._sessions[peer]
            if member_uid in session.unreachable_peers:
                self._sessions[peer] = replace(session, unreachable_peers=session.unreachable_peers - {member_uid})

    def _change(self, member_uid: str, change: Callable[[Session], Session]) -> None:
        session = self._sessions.get(member_uid)
        if session is not None:
            self._sessions[member_uid] = change(session)
