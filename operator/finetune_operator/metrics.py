"""Prometheus metrics: counters and histograms from what passes decided, and series of jobs made at scrape time from cache and sessions.

A job's series live as long as the job (and an hour after its end); no histogram carries a job's name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_contract.messages import Progress
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import JobStatus, ProgressEntry, Recovery
from finetune_operator.decide.decision import Decision, Event
from finetune_operator.decide.observed import Session
from finetune_operator.reconcile.ports import REFUSALS, Agents, Clock, Jobs

FINISHED_JOB_SECONDS = 3600.0
RECOVERY_PHASES = ("detect", "stop", "replace", "prepare", "start", "first_step")
_LONG_SECONDS = (10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800)
_SHORT_SECONDS = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 900)
_PART_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 300)
_PASS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)


class OperatorMetrics:
    """Everything that is counted while passes run (the port `Recorder` of reconcile). One instance for each registry."""

    def __init__(self, registry: CollectorRegistry, *, version: str) -> None:
        namespace = ["namespace"]
        self._finished = Counter("finetune_jobs_finished", "Jobs that ended", [*namespace, "result", "reason"], registry=registry)
        self._duration = Histogram(
            "finetune_job_duration_seconds", "Admission to end", ["result"], registry=registry, buckets=_LONG_SECONDS
        )
        self._queue_wait = Histogram("finetune_queue_wait_seconds", "Creation to admission", registry=registry, buckets=_LONG_SECONDS)
        self._recovery = Histogram(
            "finetune_recovery_seconds", "Loss to first step", ["failure_class"], registry=registry, buckets=_SHORT_SECONDS
        )
        self._recovery_phase = Histogram(
            "finetune_recovery_phase_seconds", "Part of a recovery", ["phase"], registry=registry, buckets=_PART_SECONDS
        )
        self._lost_steps = Counter("finetune_lost_steps", "Finished steps computed again", namespace, registry=registry)
        self._checkpoints = Counter("finetune_checkpoints", "Commits completed in the store", namespace, registry=registry)
        self._disruptions = Counter("finetune_disruptions", "Restarts that the cluster caused", namespace, registry=registry)
        self._crashes = Counter("finetune_crashes", "Restarts that training caused", namespace, registry=registry)
        self._passes = Counter("finetune_operator_reconcile", "Passes", ["result"], registry=registry)
        self._pass_seconds = Histogram("finetune_operator_reconcile_duration_seconds", "A pass", registry=registry, buckets=_PASS_SECONDS)
        self._orders = Counter("finetune_operator_orders", "Orders to agents", ["type"], registry=registry)
        self._events = Counter("finetune_operator_events", "Events on jobs", ["type", "reason"], registry=registry)
        self._foreign = Counter("finetune_operator_foreign_pods", "Pods that claimed a job and were refused", ["why"], registry=registry)
        self._unreadable = Counter("finetune_operator_unreadable_objects", "Objects that said nothing", ["resource"], registry=registry)
        self._depth = Gauge("finetune_operator_workqueue_depth", "Keys that wait for a pass", registry=registry)
        self._sessions = Gauge("finetune_operator_channel_sessions", "Agents connected", registry=registry)
        self._unreadable_jobs = Gauge("finetune_operator_unreadable_jobs", "Jobs that this version cannot read", registry=registry)
        self._refused = Counter("finetune_operator_channel_refused", "What the channel turned away", ["what"], registry=registry)
        for what in REFUSALS:
            self._refused.labels(what)
        self._leads = Gauge("finetune_operator_leader", "1 on the replica that leads", registry=registry)
        info = Gauge("finetune_build_info", "Version of the operator", ["version"], registry=registry)
        info.labels(version).set(1)

    def record_pass(self, seconds: float, result: str) -> None:
        """`result` is a word of a small fixed set: ok, again or error."""
        self._passes.labels(result).inc()
        self._pass_seconds.observe(seconds)

    def record_decision(self, job: FineTuneJob, decision: Decision) -> None:
        """What was asked for; what became of it is counted by `record_change`."""
        for order in decision.orders:
            self._orders.labels(order.order.type).inc()

    def record_refused(self, what: str) -> None:
        """`what` is one of REFUSALS."""
        self._refused.labels(what).inc()

    def record_event(self, event: Event) -> None:
        self._events.labels(event.type, event.reason).inc()

    def record_foreign_pod(self, why: str) -> None:
        """`why` is a word of a small fixed set: not_controlled, not_listed or ended."""
        self._foreign.labels(why).inc()

    def record_unreadable(self, resource: str) -> None:
        """`resource` is one of those that we read, in the plural."""
        self._unreadable.labels(resource).inc()

    def record_change(self, job: FineTuneJob, after: JobStatus) -> None:
        """Count what the written status says and the one before did not."""
        before, namespace = job.status, job.metadata.namespace
        if after.is_ended and not before.is_ended:
            self._record_end(namespace, after)
        if after.pinned is not None and before.pinned is None and job.metadata.creation_timestamp is not None:
            self._queue_wait.observe(max(0.0, (after.pinned.admitted_at - job.metadata.creation_timestamp).total_seconds()))
        measured = {entry.formation for entry in before.recoveries if entry.total_seconds is not None}
        for entry in after.recoveries:
            if entry.total_seconds is not None and entry.formation not in measured:
                self._record_recovery(entry)
        self._lost_steps.labels(namespace).inc(max(0, after.restarts.lost_steps - before.restarts.lost_steps))
        if after.last_commit is not None and after.last_commit != before.last_commit:
            self._checkpoints.labels(namespace).inc()
        self._disruptions.labels(namespace).inc(max(0, after.restarts.disruptions - before.restarts.disruptions))
        self._crashes.labels(namespace).inc(max(0, after.restarts.crashes - before.restarts.crashes))

    def show_queue_depth(self, depth: Callable[[], float]) -> None:
        self._depth.set_function(depth)

    def show_sessions(self, num_connected: Callable[[], float]) -> None:
        self._sessions.set_function(num_connected)

    def show_unreadable_jobs(self, num_unreadable: Callable[[], float]) -> None:
        self._unreadable_jobs.set_function(num_unreadable)

    def show_leadership(self, is_leading: Callable[[], bool]) -> None:
        self._leads.set_function(lambda: float(is_leading()))

    def _record_recovery(self, entry: Recovery) -> None:
        self._recovery.labels(entry.failure_class).observe(entry.total_seconds or 0.0)
        for phase in RECOVERY_PHASES:
            seconds = getattr(entry, f"{phase}_seconds")
            if seconds is not None:
                self._recovery_phase.labels(phase).observe(seconds)

    def _record_end(self, namespace: str, after: JobStatus) -> None:
        name = "Complete" if after.is_true("Complete") else "Failed"
        condition = after.condition(name)
        assert condition is not None
        self._finished.labels(namespace, name, condition.reason).inc()
        if after.pinned is not None:
            end = after.completion_time or condition.last_transition_time
            self._duration.labels(name).observe(max(0.0, (end - after.pinned.admitted_at).total_seconds()))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where training is, from whichever of status and session is newer."""

    step: int
    total_steps: int
    loss: float
    eval_loss: float | None
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    tokens_total: int
    step_seconds: float
    at: datetime

    @property
    def eta_seconds(self) -> float:
        return max(0.0, (self.total_steps - self.step) * self.step_seconds)


def newest_reading(status: JobStatus, sessions: tuple[Session, ...]) -> Reading | None:
    """What was reported last; None before the first step."""
    readings = [_reading(status.progress, status.progress.updated_at)] if status.progress else []
    readings += [_reading(one.progress, one.progressed_at) for one in sessions if one.progress and one.progressed_at]
    return max(readings, key=lambda reading: reading.at, default=None)


def _reading(progress: Progress | ProgressEntry, at: datetime) -> Reading:
    return Reading(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        eval_loss=progress.eval_loss,
        learning_rate=progress.learning_rate,
        grad_norm=progress.grad_norm,
        tokens_per_second=progress.tokens_per_second,
        tokens_total=progress.tokens_total,
        step_seconds=progress.step_seconds,
        at=at,
    )


_Values = dict[str, float | None]
_COUNTERS = {"tokens_total", "restarts_total"}
_SERIES = {
    "step": "Optimizer steps finished",
    "total_steps": "Optimizer steps planned",
    "progress_ratio": "Steps finished of steps planned",
    "loss": "Training loss of the newest step",
    "eval_loss": "Loss on the held-out rows",
    "learning_rate": "Learning rate of the newest step",
    "grad_norm": "Gradient norm before clipping",
    "tokens_per_second": "Training speed",
    "tokens_total": "Tokens trained on",
    "step_seconds": "Duration of the newest step",
    "eta_seconds": "Estimated time to the last step",
    "last_progress_timestamp_seconds": "When a step was last reported",
    "last_checkpoint_timestamp_seconds": "When the newest commit was completed",
    "uncommitted_steps": "Optimizer steps finished and not committed",
    "restarts_total": "Formations after the first",
    "ready_members": "Members that can train",
    "goodput_ratio": "Training seconds of all seconds since admission",
    "start_time_seconds": "When the job was started",
    "completion_time_seconds": "When the job ended",
}


def newest_committed_step(status: JobStatus, sessions: tuple[Session, ...]) -> int:
    """0 before the first commit."""
    said = [one.commit for one in sessions if one.commit is not None]
    newest = max((commit.order for commit in said), default=(0, 0))
    return max(newest, (status.last_commit.formation, status.last_commit.step) if status.last_commit else (0, 0))[1]


def job_values(status: JobStatus, reading: Reading | None, committed_step: int) -> _Values:
    """Value of each series of one job; None where there is nothing to say yet."""
    spent = status.goodput.model_dump()
    total = sum(spent.values())
    values: _Values = {
        "last_checkpoint_timestamp_seconds": _timestamp(status.last_commit.at if status.last_commit else None),
        "restarts_total": status.restarts.total,
        "ready_members": status.ready_members,
        "goodput_ratio": spent["training_seconds"] / total if total > 0 else None,
        "start_time_seconds": _timestamp(status.start_time),
        "completion_time_seconds": _timestamp(status.completion_time),
    }
    if reading is not None:
        values |= {
            "step": reading.step,
            "total_steps": reading.total_steps,
            "progress_ratio": reading.step / reading.total_steps if reading.total_steps else None,
            "loss": reading.loss,
            "eval_loss": reading.eval_loss,
            "learning_rate": reading.learning_rate,
            "grad_norm": reading.grad_norm,
            "tokens_per_second": reading.tokens_per_second,
            "tokens_total": reading.tokens_total,
            "step_seconds": reading.step_seconds,
            "uncommitted_steps": None if status.is_ended else max(0, reading.step - committed_step),
            "eta_seconds": None if status.is_ended else reading.eta_seconds,
            "last_progress_timestamp_seconds": _timestamp(reading.at),
        }
    return values


def _timestamp(at: datetime | None) -> float | None:
    return at.timestamp() if at else None


class JobCollector(Collector):
    """Series of jobs, made at each scrape. Only the leader has sessions, so only the leader shows them."""

    def __init__(self, *, jobs: Jobs, agents: Agents, clock: Clock, is_leading: Callable[[], bool]) -> None:
        self._jobs, self._agents, self._clock, self._is_leading = jobs, agents, clock, is_leading

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "name"]
        counts = GaugeMetricFamily("finetune_jobs", "Jobs by phase", labels=["namespace", "phase"])
        info = GaugeMetricFamily("finetune_job_info", "What a job trains", labels=[*labels, "uid", "model"])
        phases = GaugeMetricFamily("finetune_job_status_phase", "1 for the phase that a job is in", labels=[*labels, "phase"])
        spent = GaugeMetricFamily("finetune_job_spent_seconds", "Seconds since admission by kind", labels=[*labels, "kind"])
        families = {name: _family(name, text) for name, text in _SERIES.items()}
        by_phase: dict[tuple[str, str], int] = {}
        for job in self._shown_jobs():
            namespace, phase = job.metadata.namespace, job.status.phase or "Pending"
            by_phase[namespace, phase] = by_phase.get((namespace, phase), 0) + 1
            if self._is_retired(job.status):
                continue
            names = [namespace, job.metadata.name]
            info.add_metric([*names, job.metadata.uid, job.spec.model.uri], 1)
            phases.add_metric([*names, phase], 1)
            for kind, seconds in job.status.goodput.model_dump().items():
                spent.add_metric([*names, kind.removesuffix("_seconds")], seconds)
            sessions = self._agents.observe(job.metadata.uid)
            values = job_values(job.status, newest_reading(job.status, sessions), newest_committed_step(job.status, sessions))
            for series, value in values.items():
                if value is not None:
                    families[series].add_metric(names, value)
        for key, number in by_phase.items():
            counts.add_metric(key, number)
        yield from (counts, info, phases, spent, *families.values())

    def _shown_jobs(self) -> Iterator[FineTuneJob]:
        if self._is_leading():
            yield from (job for key in self._jobs.keys() if (job := self._jobs.get(key)) is not None)  # noqa: SIM118

    def _is_retired(self, status: JobStatus) -> bool:
        end = status.completion_time
        return end is not None and (self._clock.now() - end).total_seconds() > FINISHED_JOB_SECONDS


def _family(name: str, text: str) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
    return kind(f"finetune_job_{name.removesuffix('_total')}", text, labels=["namespace", "name"])
