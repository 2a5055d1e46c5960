"""The clock by which the operator waits: it never jumps, whatever somebody does to the clock of the machine."""

import pytest

from finetune_operator.edge.clock import SteadyClock

HOUR = 3600.0


class Machine:
    def __init__(self) -> None:
        self.wall, self.monotonic = 1_800_000_000.0, 50.0
        self.clock = SteadyClock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def live(self, seconds: float) -> float:
        """Seconds that the clock shows to have passed."""
        before = self.clock.now()
        self.wall, self.monotonic = self.wall + seconds, self.monotonic + seconds
        return (self.clock.now() - before).total_seconds()


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 24 * HOUR, -0.5, 0.0])
def test_a_clock_that_is_set_makes_no_wait_longer_or_shorter_than_a_twentieth(jump) -> None:
    machine = Machine()
    machine.wall += jump
    for _ in range(100):
        assert machine.live(1.0) == pytest.approx(1.0, abs=0.051)


def test_the_clock_comes_back_to_the_time_of_the_machine() -> None:
    machine = Machine()
    machine.wall -= 30
    machine.live(700)
    assert machine.clock.now().timestamp() == pytest.approx(machine.wall)
