"""What agents said, as a table of sessions. Pure: the clock is an argument and nobody is talked to.

A session outlives its connection (`is_connected` False) until it is forgotten.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import singledispatch

from finetune_contract.messages import Failed, FromAgent, Hello, Leaving, PhaseChanged, Probed
from finetune_contract.reports import Committed, Progress, StorageState, Warned
from finetune_contract.state import StateId, newest_state
from finetune_operator.decide.facts.observed import Session

_MAX_WARNINGS = 10


def greet(hello: Hello, before: Session | None, now: datetime) -> Session:
    """The session that a `hello` opens; what the hello does not say is kept from `before`."""
    is_known_commit = before is not None and before.commit is not None and before.commit == hello.commit
    fresh = Session(
        member_uid=hello.member_uid,
        is_connected=True,
        changed_at=now,
        contract_version=hello.contract_version,
        oldest_contract_version=hello.oldest_contract_version,
        term=hello.term,
        address=hello.address,
        port=hello.port,
        probe_port=hello.probe_port,
        phase=hello.phase,
        formation=hello.formation,
        phase_at=now,
        snapshot=hello.snapshot,
        commit=hello.commit,
        commit_key=before.commit_key if before and is_known_commit else None,
        commit_num_bytes=before.commit_num_bytes if before and is_known_commit else None,
        inputs=hello.inputs,
        progress=hello.progress,
        progressed_at=now if hello.progress else None,
        failure=hello.failure,
        failed_formation=hello.failed_formation,
        output=hello.output,
        resumed_step=None,
        first_step_seconds=None,
        leaving_until=_in(now, hello.leaving_seconds),
        storage=hello.storage,
    )
    if before is None:
        return fresh
    is_same_progress = before.progress is not None and hello.progress is not None and not _is_ahead(hello.progress, before.progress)
    return replace(
        fresh,
        progress=before.progress if is_same_progress else hello.progress,
        progressed_at=before.progressed_at if is_same_progress else fresh.progressed_at,
        resumed_step=before.resumed_step if hello.formation == before.formation else None,
        first_step_seconds=before.first_step_seconds if hello.formation == before.formation else None,
        phase_at=before.phase_at if (hello.formation, hello.phase) == (before.formation, before.phase) else now,
        warnings=before.warnings,
        unreachable_peers=before.unreachable_peers,
    )


def hear(session: Session, message: FromAgent, now: datetime) -> Session:
    """The session after one more message."""
    return _hear(message, session, now)


@singledispatch
def _hear(message: FromAgent, session: Session, now: datetime) -> Session:
    return session


@_hear.register
def _(message: Hello, session: Session, now: datetime) -> Session:
    return greet(message, session, now)


@_hear.register
def _(message: PhaseChanged, session: Session, now: datetime) -> Session:
    is_next_formation = message.formation > session.formation
    is_same_phase = not is_next_formation and message.phase is session.phase
    return replace(
        _with_commit(session, message.commit),
        phase=message.phase,
        formation=max(message.formation, session.formation),
        inputs=message.inputs or session.inputs,
        snapshot=newest_state(session.snapshot, message.snapshot),
        output=message.output or session.output,
        rows_done=message.rows_done,
        rows_total=message.rows_total,
        phase_at=session.phase_at if is_same_phase else now,
        resumed_step=message.resumed_step if is_next_formation or message.resumed_step is not None else session.resumed_step,
        first_step_seconds=message.first_step_seconds if is_next_formation else message.first_step_seconds or session.first_step_seconds,
    )


@_hear.register
def _(message: Progress, session: Session, now: datetime) -> Session:
    if session.progress is None or _is_ahead(message, session.progress):
        return replace(session, progress=message, progressed_at=now)
    if _is_ahead(session.progress, message):
        return session
    return replace(session, progress=message)  # the same step, now with its evaluation: no step was made


@_hear.register
def _(message: Committed, session: Session, now: datetime) -> Session:
    if newest_state(session.commit, message.state) != message.state:
        return session
    return replace(session, commit=message.state, commit_key=message.key, commit_num_bytes=message.num_bytes)


@_hear.register
def _(message: Failed, session: Session, now: datetime) -> Session:
    return replace(
        session, failure=message.report, failed_formation=message.formation, snapshot=newest_state(session.snapshot, message.snapshot)
    )


@_hear.register
def _(message: Leaving, session: Session, now: datetime) -> Session:
    return replace(session, leaving_until=_in(now, message.seconds))


@_hear.register
def _(message: Probed, session: Session, now: datetime) -> Session:
    if message.reachable == (message.peer_uid not in session.unreachable_peers):
        return session
    peer = frozenset((message.peer_uid,))
    unreachable = session.unreachable_peers - peer if message.reachable else session.unreachable_peers | peer
    return replace(session, unreachable_peers=unreachable)


@_hear.register
def _(message: Warned, session: Session, now: datetime) -> Session:
    warning = (message.reason, message.message)
    if warning in session.warnings:
        return session
    return replace(session, warnings=(*session.warnings, warning)[-_MAX_WARNINGS:])


@_hear.register
def _(message: StorageState, session: Session, now: datetime) -> Session:
    return replace(session, storage=message)


def _with_commit(session: Session, commit: StateId | None) -> Session:
    if commit is None or newest_state(session.commit, commit) == session.commit:
        return session
    return replace(session, commit=commit, commit_key=None, commit_num_bytes=None)


def _is_ahead(progress: Progress, of: Progress) -> bool:
    return (progress.formation, progress.step) > (of.formation, of.step)


def _in(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


class SessionTable:
    """Sessions by member uid, indexed by job. Unknown uids are ignored: a message may come after `forget`."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._job_of: dict[str, str] = {}
        self._members_of: dict[str, set[str]] = {}

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
        self._change(member_uid, lambda session: hear(session, message, now))

    def disconnect(self, member_uid: str, now: datetime) -> None:
        self._change(member_uid, lambda session: replace(session, is_connected=False, changed_at=now))

    def forget(self, member_uid: str) -> None:
        if self._sessions.pop(member_uid, None) is not None:
            job_uid = self._job_of.pop(member_uid)
            self._members_of[job_uid].discard(member_uid)
            self._is_reached_again(member_uid, job_uid)
            if not self._members_of[job_uid]:
                del self._members_of[job_uid]

    def _is_reached_again(self, member_uid: str, job_uid: str) -> None:
        for peer in self._members_of[job_uid]:
            session = self._sessions[peer]
            if member_uid in session.unreachable_peers:
                self._sessions[peer] = replace(session, unreachable_peers=session.unreachable_peers - {member_uid})

    def _change(self, member_uid: str, change: Callable[[Session], Session]) -> None:
        session = self._sessions.get(member_uid)
        if session is not None:
            self._sessions[member_uid] = change(session)
