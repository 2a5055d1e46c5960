"""The port `Members` with processes of this machine: a member is one agent in a session of its own.

It only names the agent's command. Every process dies with this one, and nothing of a member lives after its end.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from finetune_contract.failures import FailureReport
from finetune_contract.last_words import MAX_BYTES, Finished, parse_last_words
from finetune_operator.api.job import FineTuneJob
from finetune_operator.coordinator.identity import MemberIdentity, TokenRefused
from finetune_operator.decide.facts.observed import PodPhase, PodView
from finetune_operator.decide.facts.policy import PodDecoration
from finetune_operator.local.folders import RunFolders
from finetune_operator.local.proc import kill_all_in
from finetune_operator.reconcile.ports import Clock, Created, NameTaken, Refused

log = logging.getLogger(__name__)

# Runs before the agent in its process: SIGKILL when we end, whatever ends us (prctl's PR_SET_PDEATHSIG outlives the exec).
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
    " os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
LAST_WORDS_NAME = "last-words.json"
_AGENT = (sys.executable, "-m", "finetune_agent")


@dataclass(kw_only=True)
class LocalMember:
    """One agent process. `deadline` is set once it was told to end."""

    uid: str
    serial: int
    name: str
    job_uid: str
    folder: Path
    created_at: datetime
    child: asyncio.subprocess.Process
    deadline: datetime | None = None
    killing: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def is_over(self) -> bool:
        return self.child.returncode is not None

    @property
    def exit_code(self) -> int | None:
        """As Kubernetes counts: 128 + the number of the signal."""
        code = self.child.returncode
        return code if code is None or code >= 0 else 128 - code


class LocalMembers:
    """`on_change` is called when a process ended. `environment` is the user's: AWS and hub settings reach the agents through it."""

    def __init__(self, *, folders: RunFolders, clock: Clock, environment: Mapping[str, str], on_change: Callable[[], None]) -> None:
        self._folders, self._clock, self._environment, self._on_change = folders, clock, environment, on_change
        self._members: dict[str, LocalMember] = {}
        self._identities: dict[str, MemberIdentity] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def all(self) -> tuple[LocalMember, ...]:
        """Members that were not deleted, the ended ones included, by serial."""
        return tuple(sorted(self._members.values(), key=lambda member: member.serial))

    def observe(self, job: FineTuneJob) -> tuple[PodView, ...]:
        return tuple(_view(member) for member in self.all() if member.job_uid == job.metadata.uid)

    async def authenticate(self, token: str) -> MemberIdentity:
        """For the coordinator. Raises TokenRefused."""
        identity = self._identities.get(token)
        if identity is None:
            raise TokenRefused("the token belongs to no member of this run")
        return identity

    async def create(self, job: FineTuneJob, serial: int, decoration: PodDecoration) -> Created | NameTaken | Refused:
        """A process has nowhere to carry a decoration."""
        name, uid = job.member_name(serial), str(uuid.uuid4())
        present = next((member for member in self._members.values() if member.name == name), None)
        if present is not None:
            return Created(uid=present.uid)
        folder = self._folders.member(name)
        token = self._write_token(folder, MemberIdentity(member_uid=uid, job_uid=job.metadata.uid))
        environment = dict(self._environment) | self._member_environment(job, name=name, uid=uid, token=token)
        try:
            with self._folders.log(name).open("ab") as output:
                child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *_AGENT),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            return Refused(message=f"this machine starts no more processes: {error}")
        member = LocalMember(
            uid=uid, serial=serial, name=name, job_uid=job.metadata.uid, folder=folder, created_at=self._clock.now(), child=child
        )
        self._members[uid] = member
        task = asyncio.create_task(self._watch(member), name=f"watch {name}")
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return Created(uid=uid)

    async def delete(self, job: FineTuneJob, uid: str, name: str, grace_seconds: int | None) -> None:
        member = self._members.get(uid)
        if member is None:
            return
        if member.is_over:
            del self._members[uid]
            self._on_change()
            return
        grace = job.spec.termination_grace_period_seconds if grace_seconds is None else grace_seconds
        self.end(member, grace_seconds=grace)

    def end(self, member: LocalMember, *, grace_seconds: float) -> None:
        """SIGTERM and, after the grace, SIGKILL for whatever is left; 0 kills at once. A later deadline than before changes nothing."""
        deadline = self._clock.now() + timedelta(seconds=grace_seconds)
        if member.is_over or (member.deadline is not None and member.deadline <= deadline):
            return
        is_told, member.deadline = member.deadline is not None, deadline
        if member.killing is not None:
            member.killing.cancel()
        if grace_seconds <= 0:
            _kill(member)
            return
        if not is_told:
            with contextlib.suppress(ProcessLookupError):
                member.child.terminate()
        member.killing = asyncio.get_running_loop().call_later(grace_seconds, _kill, member)

    async def close(self, *, grace_seconds: float = 0) -> None:
        """End every member and wait until nothing of them lives."""
        for member in self.all():
            self.end(member, grace_seconds=grace_seconds)
        while self._watching:
            await asyncio.gather(*tuple(self._watching))

    async def _watch(self, member: LocalMember) -> None:
        await member.child.wait()
        if member.killing is not None:
            member.killing.cancel()
        left = await asyncio.to_thread(kill_all_in, member.folder)
        if left:
            log.error("processes %s of an ended member cannot be killed", list(left), extra={"member": member.name})
        self._identities = {token: who for token, who in self._identities.items() if who.member_uid != member.uid}
        if member.deadline is not None:
            self._members.pop(member.uid, None)
        self._on_change()

    def _write_token(self, folder: Path, identity: MemberIdentity) -> Path:
        token, path = secrets.token_urlsafe(32), folder / "token"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(token)
        self._identities[token] = identity
        return path

    def _member_environment(self, job: FineTuneJob, *, name: str, uid: str, token: Path) -> dict[str, str]:
        folder = self._folders.member(name)
        return {
            "FINETUNE_CONFIG": str(self._folders.config),
            "FINETUNE_CHANNEL": str(self._folders.channel),
            "FINETUNE_TOKEN": str(token),
            "FINETUNE_MEMBER_UID": uid,
            "FINETUNE_MEMBER_NAME": name,
            "FINETUNE_ADDRESS": "127.0.0.1",
            "FINETUNE_WORK_DIR": str(folder / "work"),
            "WANDB_DIR": self._environment.get("WANDB_DIR") or str(self._folders.tracking),
            "FINETUNE_STATE_DIR": str(self._folders.state),
            "FINETUNE_TERMINATION_LOG": str(folder / LAST_WORDS_NAME),
            "FINETUNE_GRACE_SECONDS": str(job.spec.termination_grace_period_seconds),
        }


def _kill(member: LocalMember) -> None:
    """The agent first, so that nothing is started again; its children die with it, and `_watch` kills what is left."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(member.pid, signal.SIGKILL)


def _view(member: LocalMember) -> PodView:
    code, words = member.exit_code, _read_last_words(member)
    phase = PodPhase.RUNNING if code is None else PodPhase.SUCCEEDED if code == 0 else PodPhase.FAILED
    return PodView(
        serial=member.serial,
        uid=member.uid,
        name=member.name,
        phase=phase,
        created_at=member.created_at,
        placed_at=member.created_at,
        node="localhost",
        is_deleting=member.deadline is not None,
        ends_at=member.deadline,
        exit_code=code,
        last_words=words if isinstance(words, FailureReport) else None,
        finished=words if isinstance(words, Finished) else None,
    )


def _read_last_words(member: LocalMember) -> FailureReport | Finished | None:
    """What an ended agent left behind."""
    if not member.is_over:
        return None
    try:
        with (member.folder / LAST_WORDS_NAME).open(errors="replace") as file:
            return parse_last_words(file.read(MAX_BYTES + 1))
    except OSError:
        return None
