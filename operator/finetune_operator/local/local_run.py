"""One job on this machine: the operator's own passes, coordinator and agents, with processes for pods. Nothing else is replaced.

    async with LocalRun(job, folders=make_folders(path), environment=os.environ) as run:
        await run.wait_until("step 3", lambda run: run.step >= 3, deadline_seconds=60)
        run.kill_worker(run.members[0])
        await run.wait_end(deadline_seconds=120)

Leaving the block ends every process, whatever happened. It reads no YAML and prints nothing.
"""

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from finetune_contract.values import changed
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.render_config import render_config
from finetune_operator.api.status import JobStatus
from finetune_operator.coordinator.handshake import CHANNEL_PATH
from finetune_operator.coordinator.server import Coordinator
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.facts.observed import Session
from finetune_operator.local.folders import RunFolders
from finetune_operator.local.jobs import LocalJobs
from finetune_operator.local.members import LocalMember, LocalMembers
from finetune_operator.local.proc import worker_pids
from finetune_operator.reconcile.passes import PassSettings, Reconciler
from finetune_operator.times import FAREWELL_SECONDS, LOCAL_POLL_SECONDS

_Answer = TypeVar("_Answer")


class NotReached(Exception):
    """What was waited for did not come in time; the message holds the last state."""


class SystemClock:
    """UTC now."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class LocalRun:
    """`on_event` hears every event of the job, in order."""

    def __init__(
        self,
        job: FineTuneJob,
        *,
        folders: RunFolders,
        environment: Mapping[str, str],
        on_event: Callable[[Event, datetime], None] | None = None,
        keeps_scratch: bool = False,
    ) -> None:
        self.folders, self._keeps_scratch = folders, keeps_scratch
        self._clock, self._key, self._uid = SystemClock(), job.key, job.metadata.uid
        self._hear = on_event
        self.events: list[Event] = []
        self._jobs = LocalJobs(job_file=folders.job, status_file=folders.status, on_event=self._record)
        self._jobs.submit(job)
        self._members = LocalMembers(folders=folders, clock=self._clock, environment=environment, on_change=self._look_again)
        self._coordinator = Coordinator(
            clock=self._clock, authenticate=self._members.authenticate, on_change=lambda _job_uid: self._look_again()
        )
        self._reconciler = Reconciler(
            members=self._members,
            agents=self._coordinator,
            jobs=self._jobs,
            clock=self._clock,
            settings=PassSettings(trainer_image="", num_workers=1, is_local=True),
        )
        self._passes: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def job(self) -> FineTuneJob:
        job = self._jobs.get(self._key)
        assert job is not None
        return job

    @property
    def status(self) -> JobStatus:
        return self.job.status

    @property
    def trouble(self) -> OSError | None:
        """Why the work folder takes no more."""
        return self._jobs.trouble

    @property
    def sessions(self) -> tuple[Session, ...]:
        return self._coordinator.observe(self._uid)

    @property
    def members(self) -> tuple[LocalMember, ...]:
        """Living members that were not told to end, by serial."""
        return tuple(member for member in self._members.all() if not member.is_over and member.deadline is None)

    @property
    def step(self) -> int:
        """The newest step that the newest formation reported; 0 before its first."""
        reported = [session.run.progress for session in self.sessions if session.run.progress is not None]
        newest = max(reported, key=lambda progress: (progress.formation, progress.step), default=None)
        return 0 if newest is None else newest.step

    def worker_pids(self, member: LocalMember) -> tuple[int, ...]:
        return worker_pids(member.pid, member.folder)

    def kill_worker(self, member: LocalMember) -> int:
        """kill -9 one training process of a member; its pid."""
        pid = self.worker_pids(member)[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_member(self, member: LocalMember) -> None:
        """kill -9 the agent; everything of the member goes with it, its memory included."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)

    def suspend(self) -> None:
        """Save, then free the members."""
        self._jobs.suspend(self._key)
        self._look_again()

    def resize(self, *, nodes: int) -> None:
        """Train on so many members from the next step boundary on, as `kubectl scale` does."""
        spec = self.job.spec
        size = changed(spec.resources.nodes, min=min(spec.resources.nodes.min, nodes), max=nodes)
        self._jobs.edit(self._key, changed(spec, resources=changed(spec.resources, nodes=size)))
        self._look_again()

    async def wait_until(self, what: str, ask: Callable[["LocalRun"], _Answer], *, deadline_seconds: float | None = None) -> _Answer:
        """The first true answer. Raises NotReached, at once if the passes have died."""
        clock = asyncio.get_running_loop().time
        deadline = math.inf if deadline_seconds is None else clock() + deadline_seconds
        while True:
            answer = ask(self)
            if answer:
                return answer
            if self._passes is not None and self._passes.done():
                self._passes.result()
            if clock() > deadline:
                raise NotReached(f"{what} did not come within {deadline_seconds:.0f} s: {self._last_seen()}")
            await asyncio.sleep(LOCAL_POLL_SECONDS)

    async def wait_end(self, *, deadline_seconds: float | None = None) -> JobStatus:
        """Until the job is Complete or Failed and its members are gone; the last status. Raises OSError if the folder takes no more."""
        await self.wait_until(
            "the end of the job", lambda run: run.status.is_ended or run.trouble is not None, deadline_seconds=deadline_seconds
        )
        if self.trouble is not None:
            raise self.trouble
        with contextlib.suppress(NotReached):
            await self.wait_until("the end of its members", lambda run: not run.members, deadline_seconds=FAREWELL_SECONDS)
        return self.status

    async def start(self) -> None:
        """Open the channel, then begin to decide. Returns at once."""
        self.folders.config.write_text(render_config(self.job).model_dump_json())
        port = await self._coordinator.start("127.0.0.1", 0)
        (self.folders.channel / "url").write_text(f"ws://127.0.0.1:{port}{CHANNEL_PATH}\n")
        self._passes = asyncio.create_task(self._reconciler.run_workers(asyncio.Event()), name="passes")

    async def close(self) -> None:
        """End every process and remove what only they needed."""
        if self._passes is not None:
            self._passes.cancel()
            await asyncio.wait([self._passes])
        await self._members.close()
        await self._coordinator.stop()
        if not self._keeps_scratch:
            self.folders.remove_scratch()

    def _look_again(self) -> None:
        self._reconciler.wake(self._key)

    def _record(self, event: Event) -> None:
        now = self._clock.now()
        self.events.append(event)
        try:
            with self.folders.events.open("a") as log:
                log.write(f"{now.isoformat(timespec='milliseconds')} {event.type} {event.reason}: {event.message}\n")
        except OSError as error:
            self._jobs.trouble = error
        if self._hear is not None:
            self._hear(event, now)

    def _last_seen(self) -> str:
        events = "; ".join(f"{event.reason}: {event.message}" for event in self.events[-5:])
        return f"phase {self.status.phase or '-'}, step {self.step}, events: {events}"
