"""The queue of keys: never twice at once, nothing lost, back-off after failures."""

import asyncio
from random import Random

import pytest

from finetune_operator.reconcile.queue import KeyedQueue

A, B = ("default", "a"), ("default", "b")


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_queue(num_workers: int = 4) -> tuple[KeyedQueue, Seconds]:
    seconds = Seconds()
    return KeyedQueue(seconds=seconds, random=Random(1), num_workers=num_workers), seconds


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


async def test_namespaces_take_turns_however_long_the_line_of_one_is() -> None:
    queue, _ = a_queue(num_workers=1)
    for number in range(1000):
        queue.add(("noisy", f"job-{number}"))
    for name in ("one", "two"):
        queue.add(("quiet", name))
    order = []
    for _ in range(4):
        order.append(await queue.take())
        queue.done(order[-1])
    assert [key[0] for key in order] == ["noisy", "quiet", "noisy", "quiet"]


@pytest.mark.parametrize("num_noisy", [1, 2, 5])
async def test_a_namespace_that_comes_late_finds_a_free_worker_while_others_work_for_long(num_noisy) -> None:
    queue, _ = a_queue(num_workers=16)
    for number in range(100):
        for noisy in range(num_noisy):
            queue.add((f"noisy-{noisy}", f"job-{number}"))
    workers = [asyncio.create_task(queue.take()) for _ in range(16)]
    await asyncio.sleep(0)
    busy = [worker.result() for worker in workers if worker.done()]
    assert 16 * num_noisy // (num_noisy + 1) <= len(busy) < 16, "as many as leave one for the next namespace"
    queue.add(B)
    await asyncio.sleep(0)
    assert B in [worker.result() for worker in workers if worker.done()]
    for worker in workers:
        worker.cancel()


async def test_a_worker_that_is_stopped_as_it_gets_a_key_loses_nothing() -> None:
    queue, _ = a_queue()
    worker = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add(A)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert await queue.take() == A


async def test_a_key_whose_passes_are_broken_backs_off_to_minutes_and_no_news_bring_it_back() -> None:
    queue, seconds = a_queue()
    waits = []
    for _ in range(9):
        queue.add_broken(A)
        start = seconds.now
        while queue.num_waiting == 0:
            queue.add(A) if queue.is_held(A) else None
            seconds.now += 0.05
            queue.move_due()
        waits.append(seconds.now - start)
        queue.done(await queue.take())
    assert waits[2] > 10
    assert 150 < waits[-1] < 460
    queue.note_success(A)
    queue.add(A)
    assert queue.num_waiting == 1, "a pass that came to rest forgets it"


async def test_a_key_that_never_comes_to_rest_is_slowed_down_and_one_that_rests_in_between_is_not() -> None:
    queue, seconds = a_queue()

    def num_passes(*, rests: bool) -> int:
        passes, end = 0, seconds.now + 60
        queue.add(A)
        while seconds.now < end:
            while queue.num_waiting:
                queue.done(queue._next())
                passes += 1
                if rests and passes % 3 == 0:
                    queue.note_success(A)
                queue.add_again(A)
                queue.add(A)  # its own write comes back as news
                queue.move_due()
                if passes > 5000:
                    return passes
            seconds.now += 0.01
            queue.move_due()
        return passes

    assert num_passes(rests=False) < 40
    queue.note_success(A)
    assert num_passes(rests=True) > 1000
