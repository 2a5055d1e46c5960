"""Waits that double with every failure in a row."""

from random import Random

import pytest

from finetune_contract.backoff import Backoff

BACKOFF = Backoff(first_seconds=0.5, longest_seconds=10.0)


@pytest.mark.parametrize(("num_failures", "seconds"), [(-1, 0.0), (0, 0.0), (1, 0.5), (2, 1.0), (5, 8.0), (6, 10.0), (7, 10.0)])
def test_a_wait_doubles_up_to_the_longest(num_failures, seconds):
    assert BACKOFF.after(num_failures) == seconds


def test_no_count_is_too_large():
    assert BACKOFF.after(10**18) == 10.0


def test_a_spread_wait_is_between_half_and_the_whole():
    waits = [BACKOFF.spread_after(4, Random(seed)) for seed in range(50)]
    assert 2.0 <= min(waits) < max(waits) <= 4.0
    assert len(set(waits)) == 50
