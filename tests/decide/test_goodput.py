"""Seconds since admission by kind: they partition the time."""

from datetime import timedelta

import pytest
from tests.builders.observed import NOW, a_recovery, ago, some_progress, training_status

from finetune_operator.api.status import Goodput, JobStatus, ProgressEntry
from finetune_operator.decide.reporting.goodput import advance


def total(goodput: Goodput) -> float:
    return sum(goodput.model_dump().values())


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ("Queued", "waiting_seconds"),
        ("Suspended", "waiting_seconds"),
        ("Preparing", "starting_seconds"),
        ("Starting", "starting_seconds"),
        ("Training", "training_seconds"),
        ("Evaluating", "training_seconds"),
        ("Exporting", "training_seconds"),
        ("Recovering", "recovering_seconds"),
    ],
)
def test_time_belongs_to_the_phase_that_was(phase, kind) -> None:
    old = training_status(phase=phase, goodput=Goodput(starting_seconds=40))
    assert advance(old, training_status(phase="Anything"), NOW).model_dump() == (
        Goodput(starting_seconds=40).model_dump() | {kind: 60.0 + (40 if kind == "starting_seconds" else 0)}
    )


def test_nothing_is_counted_before_admission() -> None:
    assert advance(JobStatus(phase="Queued"), JobStatus(phase="Queued"), NOW) == Goodput()


def test_the_sum_is_the_time_since_admission_however_often_it_is_counted() -> None:
    status = training_status()
    for second, phase in enumerate(("Recovering", "Starting", "Training", "Training"), start=1):
        counted = advance(status, status, NOW + timedelta(seconds=second))
        status = status.model_copy(update={"goodput": counted, "phase": phase})
    assert total(status.goodput) == 104
    assert status.goodput == Goodput(training_seconds=102, recovering_seconds=1, starting_seconds=1)


def test_steps_that_are_computed_again_move_from_training_to_lost_once() -> None:
    progress = ProgressEntry(**some_progress(step_seconds=2.0).model_dump(exclude={"type", "formation"}), updated_at=ago(1))
    old = training_status(progress=progress, recoveries=(a_recovery(),))
    new = old.model_copy(update={"recoveries": (a_recovery(lost_steps=3, resumed_step=7),)})
    counted = advance(old, new, NOW)
    assert counted == Goodput(training_seconds=94, lost_seconds=6)
    again = advance(new.model_copy(update={"goodput": counted}), new, NOW)
    assert again == counted


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    old = training_status(goodput=Goodput(training_seconds=100))
    assert advance(old, old, ago(50)) == old.goodput
