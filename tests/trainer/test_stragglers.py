"""A rank is named as slow when it is slow by every fair measure for many steps; short packs, pauses and idle ranks are not slowness."""

import pytest

from finetune_trainer.stragglers import WINDOW_STEPS, StepTimes, Work


def work(milliseconds: float, *, passes: int = 2, tokens: int = 200) -> Work:
    return Work(microseconds=round(1000 * milliseconds), num_passes=passes, num_tokens=tokens)


def slowest_of(steps):
    times = StepTimes()
    for step in steps:
        times.add(step, 0.2)
    return times.slowest()


@pytest.mark.parametrize(
    ("step", "rank"),
    [
        ([work(100), work(160)], 1),
        ([work(160), work(100)], 0),
        ([work(100), work(90), work(110), work(160)], 3),
        ([work(100), work(140)], None),
        ([work(100), work(100)], None),
        ([work(100), work(200, passes=4, tokens=400)], None),
        ([work(100), work(200, passes=2, tokens=400)], None),
        ([work(100), work(90, passes=2, tokens=20)], None),
        ([work(100), work(0, passes=0, tokens=0)], None),
        ([work(160), work(100), work(0, passes=0, tokens=0)], 0),
        ([work(160)], None),
    ],
    ids=[
        "of two",
        "the first of two",
        "of four",
        "a little",
        "none",
        "twice the passes",
        "longer packs",
        "a short pack",
        "an idle rank",
        "beside an idle rank",
        "alone",
    ],
)
def test_the_slow_rank_is_found(step, rank):
    found = slowest_of([step] * WINDOW_STEPS)
    assert (None if found is None else found.rank) == rank


def test_what_is_told_compares_the_same_work():
    found = slowest_of([[work(100), work(180)]] * WINDOW_STEPS)
    assert (found.seconds, found.others_seconds, found.step_share) == pytest.approx((0.09, 0.05, 0.9))


def test_nobody_is_named_before_enough_steps():
    assert slowest_of([[work(100), work(300)]] * (WINDOW_STEPS - 1)) is None


def test_a_pause_is_no_straggler_and_one_that_recovers_is_forgotten():
    slow, well = [work(100), work(900)], [work(100), work(100)]
    assert slowest_of([well] * 6 + [slow] * 4) is None
    assert slowest_of([slow] * WINDOW_STEPS + [well] * 6) is None
