"""One pass over one job: observe, decide, apply, report, in this order, each once. All judgement is in `decide`.

Intent is written before anything follows from it; whatever fails in between is found again by the next pass.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.rules import check_spec
from finetune_operator.decide.answers.decision import Decision
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.gang import have_all_spoken, member_uids
from finetune_operator.decide.facts.line import who_is_called
from finetune_operator.decide.facts.observed import LineEntry, Observed, PodView
from finetune_operator.decide.facts.policy import PlacementPolicy, policy_of
from finetune_operator.decide.facts.priority import NO_CAPS, PriorityCaps
from finetune_operator.reconcile.creation import create_members, delete_members
from finetune_operator.reconcile.internal_error import with_internal_error
from finetune_operator.reconcile.line import Line
from finetune_operator.reconcile.notes import JobNotes
from finetune_operator.reconcile.ports import (
    Agents,
    Clock,
    Conflict,
    Gone,
    Jobs,
    Key,
    Members,
    Recorder,
    Unavailable,
)
from finetune_operator.reconcile.queue import BROKEN_AFTER, KeyedQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """`reconnect_seconds`: after the lease was taken, agents have so long to say hello before anything is judged; a job all
    of whose living members have said it is judged at once."""

    trainer_image: str
    reconnect_seconds: float = 10.0
    num_workers: int = 32
    caps: PriorityCaps = NO_CAPS
    policy_of: Callable[[FineTuneJob], PlacementPolicy] = policy_of
    is_local: bool = False


class Reconciler:
    """`wake` puts a job into the queue; `run_workers` works until it is stopped. Only the holder of the lease runs it."""

    def __init__(
        self, *, members: Members, agents: Agents, jobs: Jobs, clock: Clock, settings: PassSettings, recorder: Recorder | None = None
    ) -> None:
        self._members, self._agents, self._jobs, self._clock = members, agents, jobs, clock
        self._settings, self._recorder = settings, recorder
        self.queue = KeyedQueue(seconds=time.monotonic, random=Random(), num_workers=settings.num_workers)
        self._line = Line()
        self._last_seen: dict[Key, FineTuneJob] = {}
        self._notes: dict[str, JobNotes] = {}  # by job uid
        self._broken: dict[Key, tuple[str, int]] = {}  # uid and generation of the job whose passes fail
        self._freed_at: datetime | None = None
        self._term = 1
        self._judges_from = self._confirmed_at = clock.now()

    def lead(self, term: int) -> None:
        """The lease was taken: orders carry `term`, and agents get time to reconnect."""
        self._term = term
        self._confirmed_at = self._clock.now()
        self._judges_from = self._clock.now() + timedelta(seconds=self._settings.reconnect_seconds)
        for job in filter(None, map(self._jobs.get, self._jobs.keys())):
            self._line.update(job.key, self._line_entry(job), self._clock.now())

    def confirm(self, seconds: float) -> None:
        """So many seconds ago the lease was ours: who said something before that said it to the leader."""
        self._confirmed_at = self._clock.now() - timedelta(seconds=seconds)

    def wake(self, key: Key) -> None:
        """Look at the job soon. One that backs off by itself is brought back only by a change of its spec."""
        if self.queue.is_held(key) and key in self._broken and self._broken[key] != self._version_of(key):
            self.queue.note_success(key)
        self.queue.add(key)

    def is_member(self, key: Key, job_uid: str, pod_uid: str) -> bool:
        """Whether that pod may speak for the job: its uid was noted by this operator, or by the one before it in the status."""
        job = self._jobs.get(key)
        return (
            job is not None and job.metadata.uid == job_uid and pod_uid in member_uids(job.status, self._notes_of(job).unlisted(job.status))
        )

    def _version_of(self, key: Key) -> tuple[str, int]:
        job = self._jobs.get(key)
        return ("", 0) if job is None else (job.metadata.uid, job.metadata.generation)

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
        policy = self._settings.policy_of(job)
        decision = decide(observed, policy)
        wait = await self._apply(job, decision, policy)
        if self._recorder is not None:
            self._recorder.record_decision(job, decision)
        return wait

    def _observe(self, job: FineTuneJob) -> Observed:
        now, notes = self._clock.now(), self._notes_of(job)
        pods, sessions = self._members.observe(job), self._agents.observe(job.metadata.uid)
        self._stand_in_line(job.key, job)
        self._note_freed_room(job, pods)
        notes.created = notes.unlisted(job.status)
        errors = check_spec(job, is_local=self._settings.is_local) if job.status.pinned is None else ()
        return Observed(
            now=now,
            job=job,
            pods=pods,
            sessions=sessions,
            line=self._line.ordered(),
            num_placed_at_once=self._line.window.size,
            num_placed_beside=self._line.window.num_beside,
            freed_at=self._freed_at,
            first_loss_at=self._line.first_loss(job.key[0], now),
            term=notes.term_for(self._term, sessions, self._confirmed_at),
            is_reconnect_over=now >= self._judges_from or have_all_spoken(job, pods, sessions),
            last_applied_error=notes.refusal,
            invalid_pod=notes.invalid_pod,
            trainer_image=self._settings.trainer_image,
            noted=notes.created,
            taken_serials=notes.taken_serials,
            remarks=self._settings.caps.remarks(job),
            spec_errors=tuple(str(error) for error in errors),
        )

    def _notes_of(self, job: FineTuneJob) -> JobNotes:
        return self._notes.setdefault(job.metadata.uid, JobNotes())

    async def _apply(self, job: FineTuneJob, decision: Decision, policy: PlacementPolicy) -> float | None:
        notes = self._notes_of(job)
        if decision.status != job.status:
            outcome = await self._jobs.write_status(job, decision.status)
            if isinstance(outcome, Conflict):
                return 0.0
            if isinstance(outcome, Gone):
                await self._forget(job.key, job)
                return None
            job = self._last_seen[job.key] = outcome.job
            self._stand_in_line(job.key, job)
        notes.refusal = notes.invalid_pod = None
        is_done = await create_members(self._members, job, decision.create, notes, policy)
        await delete_members(self._members, job, decision.delete)
        for order in decision.orders:
            self._agents.send(order.member_uid, order.order)
        for event in decision.events:
            await self._jobs.record(job, event)
            if self._recorder is not None:
                self._recorder.record_event(event)
        return decision.look_again_seconds if is_done else 0.0

    async def _forget(self, key: Key, job: FineTuneJob) -> None:
        """The job is gone: its members go, and nothing of it is kept here."""
        uid = job.metadata.uid
        pods = self._members.observe(job)
        decision = decide(Observed(now=self._clock.now(), job=None, pods=pods))
        await delete_members(self._members, job, decision.delete)
        for member_uid in {pod.uid for pod in pods} | {session.member_uid for session in self._agents.observe(uid)}:
            self._agents.forget(member_uid)
        self._note_freed_room(job, ())
        self._last_seen.pop(key, None)
        self._broken.pop(key, None)
        self._notes.pop(uid, None)
        self._stand_in_line(key, None)
        self.queue.forget(key)

    def _stand_in_line(self, key: Key, job: FineTuneJob | None) -> None:
        self._move_in_line(key, None if job is None else self._line_entry(job))

    def _line_entry(self, job: FineTuneJob) -> LineEntry | None:
        now = self._clock.now()
        self._line.note_loss(job.key[0], job.status.replacing_since, now)
        entry = self._settings.policy_of(job).line_entry(job, self._members.observe(job), now)
        return None if entry is None else replace(entry, priority=self._settings.caps.of(job))

    def _stand_aside(self, key: Key) -> None:
        """Members of a job that cannot be read go on; it stands in nobody's way."""
        self._move_in_line(key, None)

    def _move_in_line(self, key: Key, entry: LineEntry | None) -> None:
        for other in self._line.update(key, entry, self._clock.now()):
            self.wake(other)

    def _note_freed_room(self, job: FineTuneJob, pods: tuple[PodView, ...]) -> None:
        """A member that ended may be what the first of those that back off waits for; what a gang gives back for want of room is not."""
        if not self._notes_of(job).note_nodes(pods) or job.status.placement.backoff_until is not None:
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
                self._look_again(key, wait)
            except (Unavailable, TimeoutError) as error:
                log.warning("a pass met a cluster that does not answer: %s", error, extra={"namespace": key[0], "job": key[1]})
                self.queue.add_failed(key)
            except Exception as error:  # the border that must not die
                log.exception("a pass failed", extra={"namespace": key[0], "job": key[1]})
                await self._back_off(key, error)
            finally:
                self.queue.done(key)
                if self._recorder is not None:
                    self._recorder.record_pass(time.monotonic() - started, result)

    def _look_again(self, key: Key, wait: float | None) -> None:
        if wait == 0.0:
            self.queue.add_again(key)
            return
        self.queue.note_success(key)
        self._broken.pop(key, None)
        if wait is not None:
            self.queue.add_after(key, wait)

    async def _back_off(self, key: Key, error: Exception) -> None:
        """After three failures in a row the job says so, and is looked at every few minutes only."""
        if self.queue.add_broken(key) < BROKEN_AFTER:
            return
        self._broken[key] = self._version_of(key)
        if self._recorder is not None:
            self._recorder.record_broken_pass()
        job = self._jobs.get(key)
        if job is None:
            return
        try:
            await self._jobs.write_status(job, with_internal_error(job, error, self._clock.now()))
        except Exception:  # nothing is left to try: it is in the log, and counted
            log.exception("a failing job could not be told so", extra={"namespace": key[0], "job": key[1]})
