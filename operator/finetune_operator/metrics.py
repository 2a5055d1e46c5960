"""Prometheus metrics: counters and histograms from what passes decided, and series of jobs made at scrape time from cache and sessions.

A job's series live as long as the job (and an hour after its end); no histogram carries a job's name.
"""

import re
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_contract.failures import FailureClass
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import JobStatus, Recovery
from finetune_operator.decide.answers.answer import Phase
from finetune_operator.decide.answers.decision import Decision, Event
from finetune_operator.decide.facts.observed import Session
from finetune_operator.job_values import COUNTERS, SERIES, job_values, newest_committed_step, newest_reading, spent_seconds
from finetune_operator.reconcile.ports import REFUSALS, Agents, Clock, Jobs
from finetune_operator.times import FINISHED_JOB_METRICS_SECONDS

RECOVERY_PHASES = ("detect", "stop", "replace", "prepare", "start", "first_step")
_MAX_REASONS = 150
_MAX_NAMESPACES = 2000
_MAX_MODEL = 200
_WORD = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
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
        self._broken = Counter("finetune_operator_broken_passes", "Passes that failed three times or more in a row", registry=registry)
        self._pass_seconds = Histogram("finetune_operator_reconcile_duration_seconds", "A pass", registry=registry, buckets=_PASS_SECONDS)
        self._orders = Counter("finetune_operator_orders", "Orders to agents", ["type"], registry=registry)
        self._events = Counter("finetune_operator_events", "Events on jobs", ["type", "reason"], registry=registry)
        self._foreign = Counter("finetune_operator_foreign_pods", "Pods that claimed a job and were refused", ["why"], registry=registry)
        self._unreadable = Counter("finetune_operator_unreadable_objects", "Objects that said nothing", ["resource"], registry=registry)
        self._depth = Gauge("finetune_operator_workqueue_depth", "Keys that wait for a pass", registry=registry)
        self._sessions = Gauge("finetune_operator_channel_sessions", "Agents connected", registry=registry)
        self._unreadable_jobs = Gauge("finetune_operator_unreadable_jobs", "Jobs that this version cannot read", registry=registry)
        self._refused = Counter("finetune_operator_refused", "What a port turned away", ["listener", "what"], registry=registry)
        self._leads = Gauge("finetune_operator_leader", "1 on the replica that leads", registry=registry)
        info = Gauge("finetune_build_info", "Version of the operator", ["version"], registry=registry)
        info.labels(version).set(1)
        self._reasons: set[tuple[str, str]] = set()
        self._namespaces: set[str] = set()
        self._start_at_zero()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def _start_at_zero(self) -> None:
        """`increase()` does not see the first count of a series that is born with it."""
        for result in ("ok", "again", "error"):
            self._passes.labels(result)
        for order in ("start", "stop", "commit", "probe", "inspect", "exit"):
            self._orders.labels(order)
        for result in ("Complete", "Failed"):
            self._duration.labels(result)
        for phase in RECOVERY_PHASES:
            self._recovery_phase.labels(phase)
        for failure in FailureClass:
            self._recovery.labels(failure.value)
        for listener, refusals in REFUSALS.items():
            for what in refusals:
                self._refused.labels(listener, what)

    def _namespace(self, name: str) -> str:
        """A namespace's counters start at zero when it is first seen; those beyond the limit share one name."""
        if name not in self._namespaces:
            if len(self._namespaces) >= _MAX_NAMESPACES:
                return "other"
            self._namespaces.add(name)
            for counter in (self._lost_steps, self._checkpoints, self._disruptions, self._crashes):
                counter.labels(name)
            self._finished.labels(name, "Complete", "Complete")
            for failure in FailureClass:
                self._finished.labels(name, "Failed", failure.value)
        return name

    def record_pass(self, seconds: float, result: str) -> None:
        """`result` is a word of a small fixed set: ok, again or error."""
        self._passes.labels(result).inc()
        self._pass_seconds.observe(seconds)

    def record_broken_pass(self) -> None:
        self._broken.inc()

    def record_decision(self, job: FineTuneJob, decision: Decision) -> None:
        """What was asked for; what became of it is counted by `record_change`."""
        self._namespace(job.metadata.namespace)
        for order in decision.orders:
            self._orders.labels(order.order.type).inc()

    def record_refused(self, listener: str, what: str) -> None:
        """Both are words of REFUSALS."""
        self._refused.labels(listener, what).inc()

    def record_event(self, event: Event) -> None:
        """Reasons are words of ours; whatever else comes, however many there are, is counted as Other."""
        told = (event.type, event.reason)
        if told not in self._reasons:
            if len(self._reasons) >= _MAX_REASONS or _WORD.fullmatch(event.reason) is None:
                told = (event.type, "Other")
            else:
                self._reasons.add(told)
        self._events.labels(*told).inc()

    def record_foreign_pod(self, why: str) -> None:
        """`why` is a word of a small fixed set: not_controlled, not_listed or ended."""
        self._foreign.labels(why).inc()

    def record_unreadable(self, resource: str) -> None:
        """`resource` is one of those that we read, in the plural."""
        self._unreadable.labels(resource).inc()

    def record_change(self, job: FineTuneJob, after: JobStatus) -> None:
        """Count what the written status says and the one before did not."""
        before, namespace = job.status, self._namespace(job.metadata.namespace)
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


class JobCollector(Collector):
    """Series of jobs, made at each scrape. Only the leader has sessions, so only the leader shows them.

    It is read in a thread beside the event loop: it takes whole values only, and a job that changes meanwhile is old or new.
    """

    def __init__(self, *, jobs: Jobs, agents: Agents, clock: Clock, is_leading: Callable[[], bool]) -> None:
        self._jobs, self._agents, self._clock, self._is_leading = jobs, agents, clock, is_leading
        self._tokens: dict[str, float] = {}  # by job uid: what was shown last, for a counter never falls

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "name"]
        counts = GaugeMetricFamily("finetune_jobs", "Jobs by phase", labels=["namespace", "phase"])
        info = GaugeMetricFamily("finetune_job_info", "What a job trains", labels=[*labels, "model"])
        phases = GaugeMetricFamily("finetune_job_status_phase", "1 for the phase that a job is in", labels=[*labels, "phase"])
        spent = GaugeMetricFamily("finetune_job_spent_seconds", "Seconds since admission by kind", labels=[*labels, "kind"])
        families = {name: _family(name, text) for name, text in SERIES.items()}
        by_phase: dict[tuple[str, str], int] = {}
        tokens: dict[str, float] = {}
        now = self._clock.now()
        for job in self._shown_jobs():
            namespace, phase = job.metadata.namespace, job.status.phase or "Pending"
            for each in Phase:
                by_phase.setdefault((namespace, each.value), 0)
            by_phase[namespace, phase] = by_phase.get((namespace, phase), 0) + 1
            if self._is_retired(job.status):
                continue
            names = [namespace, job.metadata.name]
            info.add_metric([*names, job.spec.model.uri[:_MAX_MODEL]], 1)
            phases.add_metric([*names, phase], 1)
            seconds_of = spent_seconds(job.status, now)
            for kind, seconds in seconds_of.items():
                spent.add_metric([*names, kind], seconds)
            sessions = self._sessions_of(job.metadata.uid)
            reading = newest_reading(job.status, sessions)
            values = job_values(job.status, reading, newest_committed_step(job.status, sessions), seconds_of)
            uid = job.metadata.uid
            tokens[uid] = values["tokens_total"] = max(values["tokens_total"] or 0, self._tokens.get(uid, 0))
            for series, value in values.items():
                if value is not None:
                    families[series].add_metric(names, value)
        self._tokens = tokens
        for key, number in by_phase.items():
            counts.add_metric(key, number)
        yield from (counts, info, phases, spent, *families.values())

    def _shown_jobs(self) -> Iterator[FineTuneJob]:
        if self._is_leading():
            yield from (job for key in self._jobs.keys() if (job := self._jobs.get(key)) is not None)  # noqa: SIM118

    def _sessions_of(self, uid: str) -> tuple[Session, ...]:
        try:
            return self._agents.observe(uid)
        except (KeyError, RuntimeError):  # a member was forgotten while we looked
            return ()

    def _is_retired(self, status: JobStatus) -> bool:
        end = status.completion_time
        return end is not None and (self._clock.now() - end).total_seconds() > FINISHED_JOB_METRICS_SECONDS


def _family(name: str, text: str) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
    return kind(f"finetune_job_{name.removesuffix('_total')}", text, labels=["namespace", "name"])
