"""Metrics: per-job series follow the newest report and end with the job; counters count transitions once."""

from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, generate_latest
from tests.builders.observed import changed_session
from tests.coordinator.test_sessions import hello, progress
from tests.kube.builders import job

from finetune_contract.state import StateId
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import Condition, JobStatus, Pinned, ProgressEntry, Recovery, Restarts
from finetune_operator.coordinator.sessions import greet, hear
from finetune_operator.decide.answers.decision import Decision, Event
from finetune_operator.decide.facts.observed import Session
from finetune_operator.decide.reporting.report import tokens_processed
from finetune_operator.metrics import JobCollector, OperatorMetrics

KEY = ("team-a", "support-bot")
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
    session = changed_session(hear(greet(hello(), None, NOW), progress(7), NOW), progressed_at=NOW - timedelta(hours=1))
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


def test_the_counter_of_tokens_never_falls_and_counts_what_is_computed_again() -> None:
    world, shown = World(training()), []
    for tokens, step in ((1000, 40), (1020, 42), (1015, 41), (1035, 43)):
        before = world.jobs[KEY].status.progress
        processed = tokens_processed(before if shown else None, tokens)
        entry = before.model_copy(update={"step": step, "tokens_total": tokens, "tokens_processed": processed})
        world.jobs[KEY] = training(progress=entry)
        shown.append(world.value("finetune_job_tokens_total", name="support-bot"))
    assert shown == [1000, 1020, 1020, 1040]
    assert world.value("finetune_job_state_tokens", name="support-bot") == 1035


def test_spent_seconds_go_on_while_nothing_is_written() -> None:
    pinned = Pinned(image="t", contract_version=1, admitted_at=NOW - timedelta(hours=24))
    world = World(training(phase="Preparing", pinned=pinned))
    assert world.value("finetune_job_spent_seconds", name="support-bot", kind="starting") == 24 * 3600


def test_nobody_learns_the_uid_of_a_job() -> None:
    world = World(training())
    assert job().metadata.uid.encode() not in generate_latest(world.registry)


def test_a_member_that_is_forgotten_during_a_scrape_ends_nothing() -> None:
    world = World(training())

    def vanish(job_uid):
        raise KeyError(job_uid)

    world.observe = vanish
    assert world.value("finetune_job_step", name="support-bot") == 40


def test_label_values_are_bounded_whatever_members_say() -> None:
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry, version="1")
    for number in range(1000):
        metrics.record_event(Event(type="Warning", reason=f"Made{number}", message=""))
        metrics.record_event(Event(type="Warning", reason=f"made up\n{number}", message=""))
    counted = [line for line in generate_latest(registry).splitlines() if line.startswith(b"finetune_operator_events_total{")]
    assert len(counted) <= 152
    assert registry.get_sample_value("finetune_operator_events_total", {"type": "Warning", "reason": "Other"}) >= 1000


def test_counters_of_a_namespace_are_born_at_zero() -> None:
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry, version="1")
    metrics.record_decision(training(), Decision(status=JobStatus()))
    assert registry.get_sample_value("finetune_disruptions_total", {"namespace": "team-a"}) == 0
    assert (
        registry.get_sample_value("finetune_jobs_finished_total", {"namespace": "team-a", "result": "Failed", "reason": "UserError"}) == 0
    )
    assert registry.get_sample_value("process_start_time_seconds") > 0


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
