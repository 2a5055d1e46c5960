"""Who waits for whom: a change of one gang wakes each whose turn it brings, and what one namespace may not do delays no other."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.builders.observed import NOW, a_line_entry, observed

from finetune_operator.decide.facts.line import (
    CLEAN_BEFORE_GROWTH,
    MAX_BESIDE,
    Window,
    is_backing_off,
    order_of,
    who_is_ahead,
    who_is_called,
)
from finetune_operator.reconcile.line import Line

STATES = (
    {"is_placing": False},
    {"is_placing": False, "backoff_until": NOW + timedelta(seconds=9), "gave_back_at": NOW - timedelta(seconds=1), "attempts": 1},
    {"is_placing": False, "backoff_until": NOW - timedelta(seconds=9), "gave_back_at": NOW - timedelta(seconds=20), "attempts": 1},
    {
        "is_placing": False,
        "is_refused": True,
        "backoff_until": NOW + timedelta(seconds=9),
        "gave_back_at": NOW - timedelta(seconds=1),
        "attempts": 1,
    },
    {"is_placing": True},
    {"is_placing": True, "has_unschedulable": True},
    {"is_placing": True, "has_unschedulable": True, "is_passed": True},
    {"is_placing": False, "has_started": True, "has_unschedulable": True},
    None,
)
NAMES = [(namespace, name) for namespace in ("a", "b") for name in ("1", "2", "3", "4")]


def entry_of(key, state, age):
    if state is None:
        return None
    gang = a_line_entry(key[1], **state)
    return replace(gang, key=key, uid="/".join(key), created_at=NOW - timedelta(seconds=age), priority=age % 2)


def may_go(line, window, key, freed_at):
    """Whether a pass would let this gang go on with its placement, or try. One that has started asks nobody."""
    entry = next((one for one in line if one.key == key), None)
    if entry is None or entry.has_started:
        return False
    if is_backing_off(entry, NOW):
        return who_is_called(line, freed_at, NOW) == key
    return who_is_ahead(observed(line=line, num_placed_at_once=window.size, num_placed_beside=window.num_beside), key) is None


@given(st.data(), st.sampled_from([None, NOW - timedelta(seconds=5), NOW]))
def test_whoever_may_go_on_after_a_change_and_could_not_before_is_woken(data, freed_at):
    line = Line()
    line.window = Window(size=data.draw(st.integers(1, 4)), num_clean=data.draw(st.integers(0, CLEAN_BEFORE_GROWTH)))
    for key in NAMES:
        line.update(key, entry_of(key, data.draw(st.sampled_from(STATES)), data.draw(st.integers(0, 9))), NOW)
    before = {key: may_go(line.ordered(), line.window, key, freed_at) for key in NAMES}
    is_placing = {entry.key for entry in line.ordered() if entry.is_placing}
    changed = data.draw(st.sampled_from(NAMES))
    woken = line.update(changed, entry_of(changed, data.draw(st.sampled_from(STATES)), data.draw(st.integers(0, 9))), NOW)
    after = {key: may_go(line.ordered(), line.window, key, freed_at) for key in NAMES}
    others = set(NAMES) - {changed}
    assert {key for key in others if after[key] and not before[key]} <= woken
    assert {key for key in others & is_placing if before[key] and not after[key]} <= woken, "these have to give back"


def test_a_refusal_far_behind_wakes_those_who_waited_for_its_namespace():
    line = Line()
    refused, waiting, lacks_room = STATES[3], STATES[0], STATES[5]
    for age, key, state in ((9, ("c", "1"), refused), (7, ("b", "1"), waiting), (5, ("a", "1"), lacks_room)):
        line.update(key, entry_of(key, state, age), NOW)
    assert not may_go(line.ordered(), line.window, ("a", "1"), None)
    woken = line.update(("b", "2"), entry_of(("b", "2"), refused, 1), NOW)
    assert may_go(line.ordered(), line.window, ("a", "1"), None)
    assert woken == {("a", "1"), ("b", "1"), ("c", "1")}
    assert line.update(("b", "3"), entry_of(("b", "3"), refused, 1), NOW) == frozenset(), "the namespace was shut before"


def test_one_far_behind_wakes_nobody():
    line = Line()
    keys = [("a", f"{number:02}") for number in range(20)]
    for age, key in enumerate(reversed(keys)):
        line.update(key, entry_of(key, STATES[0], 2 * age), NOW)
    assert [entry.key for entry in line.ordered()] == sorted(
        keys, key=lambda key: order_of(next(e for e in line.ordered() if e.key == key))
    )
    last, first = line.ordered()[-1].key, line.ordered()[0].key
    assert line.update(last, None, NOW) == frozenset()
    assert line.update(first, None, NOW) == {line.ordered()[0].key}


def test_gangs_of_a_namespace_that_may_have_no_more_pods_delay_only_each_other():
    refused, waiting = entry_of(("noisy", "1"), STATES[3], 8), entry_of(("noisy", "2"), STATES[0], 6)
    placing, quiet = entry_of(("noisy", "3"), STATES[4], 4), entry_of(("quiet", "1"), STATES[0], 2)
    line = tuple(sorted((refused, waiting, placing, quiet), key=order_of))
    assert who_is_ahead(observed(line=line, num_placed_at_once=1), quiet.key) is None
    assert who_is_ahead(observed(line=line, num_placed_at_once=1), waiting.key).key == placing.key
    calm = tuple(one for one in line if one is not refused)
    assert who_is_ahead(observed(line=calm, num_placed_at_once=1), quiet.key).key == placing.key


def test_the_first_of_another_namespace_need_not_wait_while_room_is():
    placing, behind, other = entry_of(("a", "1"), STATES[4], 8), entry_of(("a", "2"), STATES[0], 6), entry_of(("b", "1"), STATES[0], 4)
    line = (placing, behind, other)
    calm, full = Window(), Window(num_clean=0)
    assert not may_go(line, calm, behind.key, None)
    assert may_go(line, calm, other.key, None)
    assert not may_go(line, full, other.key, None)
    crowd = tuple(entry_of((f"n{number}", "1"), STATES[4], 8) for number in range(1 + MAX_BESIDE))
    assert not may_go((*crowd, other), calm, other.key, None)


def test_a_refusal_says_nothing_of_the_nodes():
    window, placing = Window(size=7), entry_of(("a", "1"), STATES[4], 2)
    assert window.after(placing.key, placing, entry_of(placing.key, STATES[3], 2)) == window
    assert window.after(placing.key, placing, entry_of(placing.key, STATES[1], 2)).size == 1
