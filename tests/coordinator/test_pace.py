"""Budgets of what members say, and when it makes the operator look: moments are arguments, or a loop whose clock the test moves."""

from types import SimpleNamespace

import pytest

from finetune_contract.reports import StorageProblem, StorageState
from finetune_operator.coordinator import wakes as wakes_module
from finetune_operator.coordinator.handshake import heartbeat_seconds
from finetune_operator.coordinator.pace import Bucket, LogBudget, MemberPace
from finetune_operator.coordinator.wakes import StorageGate, Wakes


def test_a_bucket_gives_what_it_holds_and_then_what_it_gains() -> None:
    bucket = Bucket(2.0, 3.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.4), bucket.take(10.5), bucket.take(10.5)] == [False, True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False], "it saves no more than it holds"


def test_what_a_bucket_lends_has_to_be_waited_for() -> None:
    bucket = Bucket(2.0, 3.0)
    assert [bucket.spend(3.0, 0.0), bucket.spend(1.0, 0.0), bucket.spend(1.0, 0.0)] == [0.0, 0.5, 1.0]
    assert bucket.spend(0.0, 0.75) == pytest.approx(0.25)
    assert bucket.spend(0.0, 1.0) == 0.0


def test_lines_of_the_log_that_were_left_out_are_told_with_the_next() -> None:
    lines = LogBudget()
    assert [lines.admit(0.0) for _ in range(7)] == [0, 0, 0, 0, 0, None, None]
    assert [lines.admit(9.9), lines.admit(10.0), lines.admit(20.0)] == [None, 3, 0]


def test_a_member_that_says_little_is_read_at_once_and_one_that_says_much_at_its_pace() -> None:
    pace = MemberPace()
    assert [pace.receive(100, 0.0) for _ in range(100)] == [0.0] * 100
    assert pace.receive(100, 0.0) == pytest.approx(1 / 20)
    assert not pace.is_out_of_patience(0.0)
    assert pace.receive(0, 5.0) == 0.0
    long = MemberPace()
    assert long.receive(256 * 1024, 0.0) == 0.0
    assert long.receive(64 * 1024, 0.0) == pytest.approx(1.0)


def test_patience_ends_with_a_flood_that_never_pauses_alone() -> None:
    pace = MemberPace()
    for number in range(200):
        pace.receive(100, number / 1000)
    assert not pace.is_out_of_patience(10.0)
    assert pace.is_out_of_patience(10.2)
    pace.receive(100, 30.0)
    assert not pace.is_out_of_patience(60.0), "it paused"
    assert not MemberPace().is_out_of_patience(1e9)


@pytest.mark.parametrize(("num", "factor"), [(0, 1.0), (1000, 1.0), (5000, 5.0)])
def test_many_channels_share_the_pace_of_heartbeats(num, factor) -> None:
    assert heartbeat_seconds(num) == pytest.approx(1.2 * factor)


class Loop:
    """A clock and its timers."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[SimpleNamespace] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, act, *arguments):
        timer = SimpleNamespace(when=when, act=lambda: act(*arguments))
        timer.cancel = lambda: self.timers.remove(timer) if timer in self.timers else None
        self.timers.append(timer)
        return timer

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.when <= self.now]:
            self.timers.remove(timer)
            timer.act()


@pytest.fixture
def loop(monkeypatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(wakes_module, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return loop


def test_a_burst_wakes_a_job_at_once_and_once_more(loop) -> None:
    woken: list[str] = []
    wakes = Wakes(woken.append)
    for _ in range(10):
        wakes.soon("a")
        wakes.soon("b")
    assert woken == ["a", "b"]
    loop.go_on(0.99)
    assert woken == ["a", "b"]
    loop.go_on(0.01)
    assert woken == ["a", "b", "a", "b"]
    loop.go_on(10)
    assert (len(woken), loop.timers) == (4, [])


def test_what_wakes_now_answers_what_waits_too(loop) -> None:
    woken: list[str] = []
    wakes = Wakes(woken.append)
    wakes.now("a")
    wakes.soon("a")
    wakes.now("a")
    loop.go_on(5)
    assert woken == ["a", "a"]


def test_nothing_wakes_after_the_end_and_a_job_that_is_forgotten_has_no_past(loop) -> None:
    woken: list[str] = []
    wakes = Wakes(woken.append)
    for _ in range(2):
        wakes.soon("a")
        wakes.soon("b")
    wakes.forget_except(frozenset({"b"}))
    assert wakes._woken_at.keys() == {"b"}
    wakes.stop()
    loop.go_on(5)
    assert (woken, loop.timers) == (["a", "b"], [])


def away(words: str) -> StorageState:
    return StorageState(problem=StorageProblem(reason="StorageUnavailable", message=words))


def test_of_the_states_of_a_store_the_first_and_the_newest_are_heard(loop) -> None:
    heard: list[StorageState] = []
    gate = StorageGate(heard.append)
    for words in ("one", "two", "three"):
        gate.offer(away(words))
    assert heard == [away("one")]
    loop.go_on(4.9)
    assert heard == [away("one")]
    loop.go_on(0.1)
    assert heard == [away("one"), away("three")]
    gate.offer(StorageState())
    loop.go_on(5)
    assert heard[2:] == [StorageState()]
    loop.go_on(5)
    gate.offer(away("later"))
    assert heard[3:] == [away("later")], "after a while at once"


def test_a_gate_that_is_closed_lets_nothing_through(loop) -> None:
    heard: list[StorageState] = []
    gate = StorageGate(heard.append)
    gate.offer(away("one"))
    gate.offer(away("two"))
    gate.close()
    loop.go_on(10)
    assert (heard, loop.timers) == ([away("one")], [])
