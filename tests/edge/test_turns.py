"""Whose review is next: the address that has cost least, and whoever waits too long is told so."""

import asyncio
from contextlib import suppress

import pytest
from tests.coordinator.test_channel import until

from finetune_operator.edge import turns as turns_module
from finetune_operator.edge.turns import AT_ONCE, Busy, Turns


class Reviews:
    """Reviews that last until they are told to end."""

    def __init__(self, wait_seconds: float = 60.0) -> None:
        self.turns = Turns(wait_seconds)
        self.running: list[str] = []
        self.done: list[str] = []
        self.refused: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def review(self, name: str, address: str, cost: float) -> None:
        self.ends[name] = asyncio.Event()
        try:
            async with self.turns.turn(address) as costs:
                self.running.append(name)
                await self.ends[name].wait()
                costs.append(cost)
            self.done.append(name)
        except Busy:
            self.refused.append(name)

    def begin(self, *names: str, address: str = "", cost: float = 0.0) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.review(name, address or name[0], cost)) for name in names]

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await until(lambda: name in self.done)


async def test_few_run_at_once_and_the_next_begins_when_one_ends() -> None:
    reviews = Reviews()
    tasks = reviews.begin("a1", "a2", "a3", "a4", "a5")
    await until(lambda: len(reviews.running) == AT_ONCE)
    await asyncio.sleep(0)
    assert reviews.running == ["a1", "a2", "a3"]
    await reviews.end("a2")
    await until(lambda: reviews.running == ["a1", "a2", "a3", "a4"])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_addresses_take_turns_and_one_that_has_cost_much_comes_last(monkeypatch) -> None:
    monkeypatch.setattr(turns_module, "_OF_ADDRESS_AT_ONCE", 0.0)
    reviews = Reviews()
    for name in ("a1", "a2", "a3"):
        reviews.begin(name)
    await until(lambda: len(reviews.running) == 3)
    await asyncio.sleep(0.02)
    for name in ("a4", "a5", "b1", "b2", "c1"):
        reviews.begin(name)
    await asyncio.sleep(0)
    for name in ("a1", "a2", "a3"):
        await reviews.end(name)
    assert reviews.running[3:] == ["b1", "c1", "b2"], "a has cost, b and c come in turn"
    for name in ("b1", "c1", "b2"):
        await reviews.end(name)
    await until(lambda: reviews.running[6:] == ["a4", "a5"])
    for name in ("a4", "a5"):
        await reviews.end(name)
    assert reviews.turns._num_free == AT_ONCE


async def test_whoever_waits_too_long_hears_that_we_are_busy_and_leaves_no_trace() -> None:
    reviews = Reviews(wait_seconds=0.05)
    reviews.begin("a1", "a2", "a3")
    await until(lambda: len(reviews.running) == 3)
    reviews.begin("b1")
    await until(lambda: reviews.refused == ["b1"])
    for name in ("a1", "a2", "a3"):
        await reviews.end(name)
    reviews.begin("b2")
    await until(lambda: "b2" in reviews.running)
    await reviews.end("b2")
    assert (reviews.turns._num_free, reviews.turns._num_waiting, reviews.turns._waiting) == (AT_ONCE, 0, {})


async def test_a_caller_that_goes_gives_its_turn_to_the_next() -> None:
    reviews = Reviews()
    reviews.begin("a1", "a2", "a3")
    await until(lambda: len(reviews.running) == 3)
    [gone], _ = reviews.begin("b1"), reviews.begin("c1")
    await asyncio.sleep(0)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    await reviews.end("a1")
    await until(lambda: reviews.running[3:] == ["c1"])
    for name in ("a2", "a3", "c1"):
        await reviews.end(name)
    assert reviews.turns._num_free == AT_ONCE


async def test_a_turn_that_comes_as_its_caller_goes_is_not_lost() -> None:
    reviews = Reviews()
    reviews.begin("a1", "a2", "a3")
    await until(lambda: len(reviews.running) == 3)
    [caller] = reviews.begin("b1")
    await asyncio.sleep(0)
    reviews.turns._give_back()
    caller.cancel()
    with suppress(asyncio.CancelledError):
        await caller
    assert "b1" not in reviews.running
    assert reviews.turns._num_free == 1


async def test_a_full_line_sends_the_last_of_the_longest_away(monkeypatch) -> None:
    monkeypatch.setattr(turns_module, "_MAX_WAITING", 4)
    reviews = Reviews()
    reviews.begin("x1", "x2", "x3")
    await until(lambda: len(reviews.running) == 3)
    reviews.begin("a1", "b1", "b2", "b3")
    await asyncio.sleep(0)
    reviews.begin("c1")
    await until(lambda: reviews.refused == ["b3"])
    assert reviews.turns._num_waiting == 4


async def test_the_share_of_all_is_waited_for_by_those_who_have_cost_alone(monkeypatch) -> None:
    monkeypatch.setattr(turns_module, "_OF_ALL_AT_ONCE", 0.0)
    monkeypatch.setattr(turns_module, "_SHARE_OF_ALL", 10.0)
    monkeypatch.setattr(turns_module, "_OF_ADDRESS_AT_ONCE", 0.0)
    monkeypatch.setattr(turns_module, "_SHARE_OF_ADDRESS", 0.001)
    reviews = Reviews()
    reviews.begin("a1", cost=3.0)
    await until(lambda: reviews.running == ["a1"])
    await asyncio.sleep(0.01)
    await reviews.end("a1")
    reviews.begin("a2")
    reviews.begin("b1")
    await until(lambda: "b1" in reviews.running)
    assert "a2" not in reviews.running
    await until(lambda: "a2" in reviews.running)


async def test_an_error_of_a_review_is_paid_for_and_frees_its_turn() -> None:
    turns = Turns(1.0)
    with pytest.raises(LookupError):
        async with turns.turn("a"):
            raise LookupError
    assert turns._num_free == AT_ONCE


async def test_addresses_are_forgotten_when_there_are_many(monkeypatch) -> None:
    monkeypatch.setattr(turns_module, "_MOST_REMEMBERED", 3)
    turns = Turns(1.0)
    for address in ("a", "b", "a", "c", "d"):
        async with turns.turn(address):
            pass
    assert list(turns._costs) == ["a", "c", "d"]
