"""Metrics: per-job series follow the newest report and end with the job; counters count transitions once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, generate_latest
from tests.coordinator.test_sessions import hello, progress
from tests.kube.builders import job

from finetune_contract.state import StateId
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import Condition, JobStatus, Pinned, ProgressEntry, Recovery, Restarts
from finetune_operator.coordinator.sessions import greet, hear
from finetune_operator.decide.observed import Session
from finetune_operator.metrics import JobCollector, OperatorMetrics

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class World:
    """Ports in memory."""

    def __init__(self, *jobs: FineTuneJob, sessions: tuple[Session, ...] = ()) -> None:
        self.jobs = {one.key: one for one in jobs}
        self.sessions, self.is_leading = sessions, True
        self.registry = CollectorRegistry()
        self.registry.register(JobCollector(jobs=self, agents=self, clock=self, is_leading=lambda: self.is_leading))  # type: ignore[arg-type]

    def get(self, key):
        return self.jobs.get(key)

    def keys(self):
        return tuple(self.jobs)

    def observe(self, job_uid):
        return self.sessions

    def now(self):
        return NOW

    def value(self, series: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(series, {"namespace": "team-a", **labels})


def training(**status) -> FineTuneJob:
    entry = ProgressEntry(**progress(40).model_dump(exclude={"type", "formation"}), updated_at=NOW - timedelta(seconds=20))
    return job().model_copy(update={"status": JobStatus(**{"phase": "Training", "progress": entry, **status})})


def test_a_jobs_series_show_where_training_is() -> None:
    world = World(training(restarts=Restarts(disruptions=2, crashes=1)))
    assert world.value("finetune_job_step", name="support-bot") == 40
    assert world.value("finetune_job_total_steps", name="support-bot") == 100
    assert world.value("finetune_job_tokens_total", name="support-bot") == 400
    assert world.value("finetune_job_restarts_total", name="support-bot") == 3
    assert world.value("finetune_job_eta_seconds", name="support-bot") == 120
    assert world.value("finetune_job_status_phase", name="support-bot", phase="Training") == 1
    assert world.value("finetune_jobs", phase="Training") == 1


def test_a_session_is_newer_than_the_throttled_status() -> None:
    session = hear(greet(hello(), None, NOW), progress(55), NOW)
    assert World(training(), sessions=(session,)).value("finetune_job_step", name="support-bot") == 55


def test_an_old_session_does_not_hide_a_newer_status() -> None:
    session = replace(hear(greet(hello(), None, NOW), progress(7), NOW), progressed_at=NOW - timedelta(hours=1))
    assert World(training(), sessions=(session,)).value("finetune_job_step", name="support-bot") == 40


def test_steps_that_are_not_committed_are_shown_until_the_end() -> None:
    session = hear(greet(hello(commit=StateId(formation=2, step=50)), None, NOW), progress(55), NOW)
    assert World(training(), sessions=(session,)).value("finetune_job_uncommitted_steps", name="support-bot") == 5
    assert World(training()).value("finetune_job_uncommitted_steps", name="support-bot") == 40
    ended = training(conditions=(condition("Complete"),), completion_time=NOW)
    assert World(ended, sessions=(session,)).value("finetune_job_uncommitted_steps", name="support-bot") is None


def test_series_end_with_the_job() -> None:
    world = World(training())
    world.jobs.clear()
    assert b"support-bot" not in generate_latest(world.registry)


def test_series_of_an_ended_job_end_after_an_hour_but_it_is_still_counted() -> None:
    world = World(training(phase="Complete", completion_time=NOW - timedelta(hours=2)))
    assert world.value("finetune_job_step", name="support-bot") is None
    assert world.value("finetune_jobs", phase="Complete") == 1


def test_only_the_leader_shows_jobs() -> None:
    world = World(training())
    world.is_leading = False
    assert b"support-bot" not in generate_latest(world.registry)


def condition(name: str) -> Condition:
    return Condition(type=name, status="True", reason="Done", message="", observed_generation=1, last_transition_time=NOW)


def test_transitions_are_counted_once() -> None:
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry, version="1")
    pinned = Pinned(image="t", contract_version=1, admitted_at=NOW - timedelta(seconds=100))
    recovery = Recovery(formation=2, failure_class="Disrupted", reason="node gone", at=NOW, total_seconds=3.0)
    before = training(pinned=pinned)
    after = before.status.model_copy(
        update={
            "conditions": (condition("Complete"),),
            "completion_time": NOW,
            "recoveries": (recovery,),
            "restarts": Restarts(disruptions=1),
        }
    )
    metrics.record_change(before, after)
    metrics.record_change(before.model_copy(update={"status": after}), after)
    value = registry.get_sample_value
    assert value("finetune_jobs_finished_total", {"namespace": "team-a", "result": "Complete", "reason": "Done"}) == 1
    assert value("finetune_job_duration_seconds_sum", {"result": "Complete"}) == 100
    assert value("finetune_recovery_seconds_count", {"failure_class": "Disrupted"}) == 1
    assert value("finetune_disruptions_total", {"namespace": "team-a"}) == 1
