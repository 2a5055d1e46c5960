"""The queue of keys: never twice at once, nothing lost, back-off after failures."""

from random import Random

from finetune_operator.reconcile.queue import KeyedQueue

A, B = ("default", "a"), ("default", "b")


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_queue() -> tuple[KeyedQueue, Seconds]:
    seconds = Seconds()
    return KeyedQueue(seconds=seconds, random=Random(1)), seconds


async def test_a_key_that_is_added_twice_is_taken_once() -> None:
    queue, _ = a_queue()
    queue.add(A)
    queue.add(A)
    queue.add(B)
    assert [await queue.take(), await queue.take()] == [A, B]
    assert queue.num_waiting == 0


async def test_a_key_that_is_added_while_it_is_worked_on_comes_again_after_it_is_done() -> None:
    queue, _ = a_queue()
    queue.add(A)
    assert await queue.take() == A
    queue.add(A)
    queue.add(B)
    assert await queue.take() == B, "A is never worked on twice at once"
    queue.done(A)
    assert await queue.take() == A


async def test_a_delayed_key_comes_when_its_time_has_come() -> None:
    queue, seconds = a_queue()
    queue.add_after(A, 5)
    seconds.now = 4.9
    queue.move_due()
    assert queue.num_waiting == 0
    seconds.now = 5
    queue.move_due()
    assert await queue.take() == A


async def test_the_earlier_of_two_dates_stands() -> None:
    queue, seconds = a_queue()
    queue.add_after(A, 5)
    queue.add_after(A, 50)
    queue.add_after(B, 50)
    queue.add_after(B, 5)
    seconds.now = 5
    queue.move_due()
    assert queue.num_waiting == 2
    seconds.now = 50
    queue.move_due()
    assert queue.num_waiting == 2, "not once more"


async def test_failures_in_a_row_are_repeated_more_slowly_and_success_forgets_them() -> None:
    queue, seconds = a_queue()

    def wait_after_a_failure() -> float:
        start = seconds.now
        queue.add_failed(A)
        while queue.num_waiting == 0:
            seconds.now += 0.01
            queue.move_due()
        return seconds.now - start

    waits = []
    for _ in range(5):
        waits.append(wait_after_a_failure())
        queue.done(await queue.take())
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]
    queue.note_success(A)
    assert wait_after_a_failure() < waits[1]


async def test_a_forgotten_key_does_not_come_back() -> None:
    queue, seconds = a_queue()
    queue.add_after(A, 5)
    queue.forget(A)
    seconds.now = 6
    queue.move_due()
    assert queue.num_waiting == 0


async def test_failures_for_days_are_still_repeated_every_minute_or_so() -> None:
    queue, seconds = a_queue()
    for _ in range(2000):
        queue.add_failed(A)
        seconds.now += 90
        queue.move_due()
        queue.done(await queue.take())
