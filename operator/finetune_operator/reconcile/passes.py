"""One pass over one job: observe, decide, apply, report, in this order, each once. All judgement is in `decide`.

Intent is written before anything follows from it; whatever fails in between is found again by the next pass.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Protocol

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.rules import check_spec
from finetune_operator.decide.chain import decide
from finetune_operator.decide.decision import Decision, Event
from finetune_operator.decide.gang import have_all_spoken, member_uids
from finetune_operator.decide.line import line_entry, who_is_called
from finetune_operator.decide.observed import LineEntry, Observed, PodView, Session
from finetune_operator.reconcile.line import Line
from finetune_operator.reconcile.ports import Agents, Clock, Conflict, Created, Gone, Jobs, Key, Members, NameTaken, PodInvalid, Refused
from finetune_operator.reconcile.queue import KeyedQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """`reconnect_seconds`: after the lease was taken, agents have so long to say hello before anything is judged; a job all
    of whose living members have said it is judged at once."""

    trainer_image: str
    reconnect_seconds: float = 10.0
    num_workers: int = 16
    is_local: bool = False


class Recorder(Protocol):
    """Counts passes and events for metrics."""

    def record_pass(self, seconds: float, result: str) -> None: ...

    def record_decision(self, job: FineTuneJob, decision: Decision) -> None: ...

    def record_event(self, event: Event) -> None: ...


class Reconciler:
    """`wake` puts a job into the queue; `run_workers` works until it is stopped. Only the holder of the lease runs it."""

    def __init__(
        self, *, members: Members, agents: Agents, jobs: Jobs, clock: Clock, settings: PassSettings, recorder: Recorder | None = None
    ) -> None:
        self._members, self._agents, self._jobs, self._clock = members, agents, jobs, clock
        self._settings, self._recorder = settings, recorder
        self.queue = KeyedQueue(seconds=time.monotonic, random=Random())
        self._line = Line()
        self._last_seen: dict[Key, FineTuneJob] = {}
        self._refused: dict[str, str] = {}  # by job uid: the newest refusal that no pass has answered yet
        self._invalid: dict[str, str] = {}  # by job uid: the same, where the API server will never take the pod
        self._noted: dict[str, dict[int, str]] = {}  # by job uid: uids of created pods, by serial, until the status shows them
        self._taken: dict[str, frozenset[int]] = {}  # by job uid: serials whose names belong to somebody else
        self._holding: dict[str, frozenset[str]] = {}  # by job uid: pods that have a node
        self._freed_at: datetime | None = None
        self._term = 1
        self._judges_from = self._confirmed_at = clock.now()
        self._terms: dict[str, int] = {}  # by job uid: of jobs whose agents have obeyed a greater one than that of the lease

    def lead(self, term: int) -> None:
        """The lease was taken: orders carry `term`, and agents get time to reconnect."""
        self._term = term
        self._confirmed_at = self._clock.now()
        self._judges_from = self._clock.now() + timedelta(seconds=self._settings.reconnect_seconds)
        known = self._jobs.keys()
        for key in known:
            job = self._jobs.get(key)
            if job is not None:
                self._line.update(key, line_entry(job, self._members.observe(job), self._clock.now()))

    def confirm(self, seconds: float) -> None:
        """So many seconds ago the lease was ours: who said something before that said it to the leader."""
        self._confirmed_at = self._clock.now() - timedelta(seconds=seconds)

    def wake(self, key: Key) -> None:
        self.queue.add(key)

    def is_member(self, key: Key, job_uid: str, pod_uid: str) -> bool:
        """Whether that pod may speak for the job: its uid was noted by this operator, or by the one before it in the status."""
        job = self._jobs.get(key)
        return job is not None and job.metadata.uid == job_uid and pod_uid in member_uids(job.status, self._noted_of(job))

    async def run_workers(self, stop: asyncio.Event) -> None:
        """Work on the queue until `stop`; a pass that has begun is finished."""
        known = self._jobs.keys()
        for key in known:
            self.wake(key)
        timer = asyncio.create_task(self.queue.run_timer(), name="queue timer")
        workers = [asyncio.create_task(self._work(), name=f"pass worker {number}") for number in range(self._settings.num_workers)]
        try:
            await stop.wait()
        finally:
            for task in (timer, *workers):
                task.cancel()
            await asyncio.gather(timer, *workers, return_exceptions=True)

    async def run_pass(self, key: Key) -> float | None:
        """One pass; seconds after which the job has to be looked at again at the latest."""
        wait = await self._jobs.tell_unreadable(key)
        if wait is not None:
            self._stand_aside(key)
            return wait
        job = self._jobs.get(key)
        before = self._last_seen.get(key)
        if before is not None and (job is None or job.metadata.uid != before.metadata.uid):
            await self._forget(key, before)
        if job is None:
            return None
        self._last_seen[key] = job
        observed = self._observe(job)
        decision = decide(observed)
        wait = await self._apply(job, decision)
        if self._recorder is not None:
            self._recorder.record_decision(job, decision)
        return wait

    def _observe(self, job: FineTuneJob) -> Observed:
        uid, now = job.metadata.uid, self._clock.now()
        pods, sessions = self._members.observe(job), self._agents.observe(uid)
        self._stand_in_line(job.key, job)
        self._note_freed_room(job, pods)
        noted = self._noted[uid] = self._noted_of(job)
        errors = check_spec(job, is_local=self._settings.is_local) if job.status.pinned is None else ()
        return Observed(
            now=now,
            job=job,
            pods=pods,
            sessions=sessions,
            line=self._line.ordered(),
            num_placed_at_once=self._line.window.size,
            freed_at=self._freed_at,
            term=self._term_for(uid, sessions),
            is_judging=now >= self._judges_from or have_all_spoken(job, pods, sessions),
            last_applied_error=self._refused.get(uid),
            invalid_pod=self._invalid.get(uid),
            trainer_image=self._settings.trainer_image,
            noted=noted,
            taken_serials=self._taken.get(uid, frozenset()),
            spec_errors=tuple(str(error) for error in errors),
        )

    def _term_for(self, uid: str, sessions: tuple[Session, ...]) -> int:
        """That of the lease, unless an agent obeyed a greater one before: terms fall when the lease is deleted or the cluster restored.

        A leader that was replaced meanwhile learns nothing: the lease was renewed after the agent spoke.
        """
        known = max(self._term, self._terms.get(uid, 0))
        newest = max((session.term for session in sessions if session.changed_at <= self._confirmed_at), default=0)
        if newest > known:
            log.warning("agents of the job have obeyed term %d, the lease says %d: orders carry a greater one", newest, self._term)
            known = self._terms[uid] = newest + 1
        return known

    def _noted_of(self, job: FineTuneJob) -> dict[int, str]:
        """Uids that the status does not show yet."""
        listed = {entry.serial for entry in job.status.members if entry.uid is None}
        return {serial: uid for serial, uid in self._noted.get(job.metadata.uid, {}).items() if serial in listed}

    async def _apply(self, job: FineTuneJob, decision: Decision) -> float | None:
        uid = job.metadata.uid
        if decision.status != job.status:
            outcome = await self._jobs.write_status(job, decision.status)
            if isinstance(outcome, Conflict):
                return 0.0
            if isinstance(outcome, Gone):
                await self._forget(job.key, job)
                return None
            job = self._last_seen[job.key] = outcome.job
            self._stand_in_line(job.key, job)
        self._refused.pop(uid, None)
        self._invalid.pop(uid, None)
        is_done = await self._create(job, decision)
        for doomed in decision.delete:
            await self._members.delete(job, doomed.uid, doomed.name, doomed.grace_seconds)
        for order in decision.orders:
            self._agents.send(order.member_uid, order.order)
        for event in decision.events:
            await self._jobs.record(job, event)
            if self._recorder is not None:
                self._recorder.record_event(event)
        return decision.look_again_seconds if is_done else 0.0

    async def _create(self, job: FineTuneJob, decision: Decision) -> bool:
        """False: decide again at once, for a new uid belongs into the status. The rest of a refused gang is not asked for."""
        uid, is_done = job.metadata.uid, True
        for serial in decision.create:
            answer = await self._members.create(job, serial)
            match answer:
                case Created(uid=member_uid):
                    self._noted.setdefault(uid, {})[serial] = member_uid
                    is_done = False
                    log.info("member created", extra=_fields(job, member=job.member_name(serial)))
                case NameTaken():
                    self._taken[uid] = self._taken.get(uid, frozenset()) | {serial}
                    is_done = False
                case Refused() | PodInvalid():
                    log.info("member refused: %s", answer.message, extra=_fields(job, member=job.member_name(serial)))
                    self._refused[uid] = answer.message
                    if isinstance(answer, PodInvalid):
                        self._invalid[uid] = answer.message
                    return False
        return is_done

    async def _forget(self, key: Key, job: FineTuneJob) -> None:
        """The job is gone: its members go, and nothing of it is kept here."""
        uid = job.metadata.uid
        pods = self._members.observe(job)
        decision = decide(Observed(now=self._clock.now(), job=None, pods=pods))
        for doomed in decision.delete:
            await self._members.delete(job, doomed.uid, doomed.name, doomed.grace_seconds)
        for member_uid in {pod.uid for pod in pods} | {session.member_uid for session in self._agents.observe(uid)}:
            self._agents.forget(member_uid)
        self._note_freed_room(job, ())
        self._last_seen.pop(key, None)
        self._holding.pop(uid, None)
        self._refused.pop(uid, None)
        self._invalid.pop(uid, None)
        self._taken.pop(uid, None)
        self._noted.pop(uid, None)
        self._terms.pop(uid, None)
        self._stand_in_line(key, None)
        self.queue.forget(key)

    def _stand_in_line(self, key: Key, job: FineTuneJob | None) -> None:
        self._move_in_line(key, None if job is None else line_entry(job, self._members.observe(job), self._clock.now()))

    def _stand_aside(self, key: Key) -> None:
        """Members of a job that cannot be read go on; it stands in nobody's way."""
        self._move_in_line(key, None)

    def _move_in_line(self, key: Key, entry: LineEntry | None) -> None:
        if self._line.update(key, entry):
            for other in self._line.others(key):
                self.wake(other)

    def _note_freed_room(self, job: FineTuneJob, pods: tuple[PodView, ...]) -> None:
        """A member that ended may be what the first of those that back off waits for; what a gang gives back for want of room is not."""
        holding = frozenset(pod.uid for pod in pods if pod.node is not None and (not pod.is_over or pod.is_kept_by_others))
        freed = self._holding.get(job.metadata.uid, frozenset()) - holding
        self._holding[job.metadata.uid] = holding
        if not freed or job.status.placement.backoff_until is not None:
            return
        self._freed_at = now = self._clock.now()
        called = who_is_called(self._line.ordered(), self._freed_at, now)
        if called is not None:
            self.wake(called)

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            started = time.monotonic()
            result = "error"
            try:
                wait = await self.run_pass(key)
                result = "ok" if wait != 0.0 else "again"
                self.queue.note_success(key)
                if wait is not None:
                    self.queue.add_after(key, wait)
            except Exception:
                log.exception("a pass failed", extra={"namespace": key[0], "job": key[1]})
                self.queue.add_failed(key)
            finally:
                self.queue.done(key)
                if self._recorder is not None:
                    self._recorder.record_pass(time.monotonic() - started, result)


def _fields(job: FineTuneJob, *, member: str) -> dict[str, str]:
    return {"namespace": job.metadata.namespace, "job": job.metadata.name, "member": member}
