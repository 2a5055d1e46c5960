"""Who may be placed, who waits, and who gives back."""

from dataclasses import replace

import pytest
from tests.builders.observed import (
    NOW,
    a_formation,
    a_fresh_session,
    a_job,
    a_line_entry,
    a_pending_pod,
    a_pod,
    a_session,
    ago,
    fresh,
    observed,
    over_status,
    placing_status,
    training_status,
)

from finetune_operator.api.status import JobStatus, MemberEntry, Placement
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.line import line_entry, order_of

WITHOUT_ROOM = a_line_entry("bot", has_unschedulable=True)
HALF = (a_pod(1), a_pending_pod(2))
BLOCKED_BEFORE = a_line_entry("before", has_unschedulable=True)


def placing(*, pods=HALF, status=None, nodes=(2, 2), line=(), **changes):
    """Two members, of which one has no node."""
    return observed(job=a_job(status=status or placing_status(), nodes=nodes), pods=pods, sessions=(), line=line, **changes)


def waiting(*line, status=None):
    return replace(fresh(status=status or JobStatus()), line=line)


def test_an_admitted_job_lists_its_members_before_it_creates_them() -> None:
    decision = decide(fresh())
    assert decision.status.members == (MemberEntry(serial=1), MemberEntry(serial=2))
    assert decision.create == (1, 2)
    assert decision.status.pinned is not None
    assert decision.status.pinned.image == "trainer:1"
    assert [event.reason for event in decision.events] == ["Admitted", "MemberCreated"]


def test_the_line_is_ordered_by_priority_then_age() -> None:
    old, young, urgent = a_line_entry("old", created_at=ago(9)), a_line_entry("young"), a_line_entry("urgent", priority=1)
    assert sorted((young, old, urgent), key=order_of) == [urgent, old, young]


@pytest.mark.parametrize(
    ("line", "is_admitted"),
    [
        ((), True),
        ((a_line_entry("before"), a_line_entry("bot")), True),
        ((BLOCKED_BEFORE, a_line_entry("bot")), False),
        ((a_line_entry("bot"), a_line_entry("after", has_unschedulable=True)), True),
        ((a_line_entry("before"), a_line_entry("bot"), a_line_entry("after", has_unschedulable=True)), False),
        ((replace(BLOCKED_BEFORE, backoff_until=ago(-9)), a_line_entry("bot")), True),
        ((a_line_entry("bot"), a_line_entry("training", has_unschedulable=True, has_started=True)), False),
    ],
    ids=[
        "alone",
        "in parallel while there is room",
        "behind one without room",
        "the first",
        "not the first while anybody has no room",
        "past one that backs off",
        "behind a training gang that lost a member",
    ],
)
def test_a_job_is_admitted_when_nobody_before_it_lacks_room(line, is_admitted) -> None:
    decision = decide(waiting(*line))
    assert bool(decision.create) == is_admitted
    assert (decision.status.phase == "Queued") != is_admitted


def test_a_job_that_waits_says_why_in_words_that_stay_when_the_queue_moves() -> None:
    decision = decide(waiting(BLOCKED_BEFORE, a_line_entry("bot")))
    condition = decision.status.condition("Admitted")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "WaitsForOthers")
    assert condition.message == "it waits in the queue; gangs of higher priority, and older ones of the same, are placed first"


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (placing(line=(WITHOUT_ROOM,)), None),
        (placing(line=(BLOCKED_BEFORE, WITHOUT_ROOM)), "WaitsForOthers"),
        (placing(status=placing_status(since=299)), None),
        (placing(status=placing_status(since=300)), "NoRoom"),
        (placing(last_applied_error="403 exceeded quota"), "Refused"),
        (placing(pods=(a_pod(1), a_pod(2)), status=placing_status(since=300)), None),
        (placing(pods=(a_pod(1), a_pod(2)), line=(BLOCKED_BEFORE, a_line_entry("bot"))), None),
        (placing(nodes=(1, 2), status=placing_status(since=300)), None),
    ],
    ids=[
        "the first may stay incomplete",
        "another may not",
        "before the timeout",
        "at the timeout",
        "refused by quota",
        "a whole gang stays although it took long",
        "a whole gang stays although others wait",
        "an elastic gang with enough members stays",
    ],
)
def test_an_incomplete_gang_gives_everything_back_when_it_must(seen, reason) -> None:
    decision = decide(seen)
    if reason is None:
        assert decision.delete == ()
        assert decision.status.members
        return
    assert decision.status.columns.reason == reason
    assert decision.status.members == ()
    assert [doomed.uid for doomed in decision.delete] == [pod.uid for pod in seen.pods]
    assert [event.reason for event in decision.events] == ["GaveBack"]


def test_the_schedulers_words_are_passed_on() -> None:
    decision = decide(placing(status=placing_status(since=300)))
    message = decision.status.conditions[0].message or decision.status.placement.why
    assert message == "no room for 2 members within 300 s: 0/1 nodes are available: 1 Insufficient cpu."


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 15), (1, 30), (2, 60), (9, 600)])
def test_a_gang_that_gave_back_waits_longer_every_time(attempts, seconds) -> None:
    since = Placement(placing_since=ago(300), attempts=attempts)
    decision = decide(placing(status=placing_status(placement=since)))
    until = decision.status.placement.backoff_until
    assert until is not None
    assert 0.75 * seconds <= (until - NOW).total_seconds() <= 1.25 * seconds
    assert decision.look_again_seconds == pytest.approx((until - NOW).total_seconds())


@pytest.mark.parametrize(("until", "is_admitted"), [(-1, False), (0, True)], ids=["not yet", "now"])
def test_it_is_admitted_again_after_its_back_off(until, is_admitted) -> None:
    decision = decide(waiting(status=JobStatus(placement=Placement(backoff_until=ago(until), attempts=3, why="no room"))))
    assert bool(decision.create) == is_admitted
    assert decision.status.placement.attempts == 3
    assert is_admitted or decision.status.columns.reason == "BackingOff"


def test_image_and_admission_stay_pinned_when_a_job_is_placed_again() -> None:
    pinned = training_status().pinned
    status = JobStatus(pinned=pinned, last_serial=2)
    decision = decide(replace(waiting(status=status), trainer_image="trainer:2"))
    assert decision.status.pinned == pinned
    assert decision.create == (3, 4)


@pytest.mark.parametrize(
    ("seen", "is_over"),
    [
        (placing(pods=(a_pod(1), a_pod(2))), True),
        (placing(), False),
        (placing(nodes=(1, 2), status=placing_status(formation=training_status().formation)), True),
    ],
    ids=["whole", "incomplete", "an elastic gang that trains"],
)
def test_placement_is_over_when_the_gang_is_settled(seen, is_over) -> None:
    assert (decide(seen).status.placement.placing_since is None) == is_over


@pytest.mark.parametrize(
    ("pod", "nodes", "gives_back"),
    [
        (a_pending_pod(2, created_at=ago(299)), (2, 2), False),
        (a_pending_pod(2, created_at=ago(300)), (2, 2), True),
        (a_pending_pod(2, created_at=ago(300)), (1, 2), False),
        (a_pod(2, created_at=ago(300)), (2, 2), False),
    ],
    ids=["before the timeout", "at the timeout", "an elastic gang goes on smaller", "a replacement that fetches its model"],
)
def test_a_gang_that_trained_gives_back_when_it_cannot_be_whole_again(pod, nodes, gives_back) -> None:
    job = a_job(status=over_status(since=300), nodes=nodes)
    decision = decide(observed(job=job, pods=(a_pod(1), pod), sessions=(a_fresh_session(1),)))
    assert (decision.status.phase == "Queued") == gives_back
    assert bool(decision.delete) == gives_back


@pytest.mark.parametrize(("since", "gives_back"), [(299, False), (300, True)], ids=["before the timeout", "at the timeout"])
def test_a_gang_that_trained_gives_back_when_its_replacement_is_refused_for_long(since, gives_back) -> None:
    members = (MemberEntry(serial=1, uid="pod-1"), MemberEntry(serial=3))
    status = over_status(since=since, members=members, last_serial=3, placement=Placement(attempts=9, why="403 exceeded quota"))
    decision = decide(observed(job=a_job(status=status), pods=(a_pod(1),), sessions=(a_fresh_session(1),)))
    assert (decision.status.phase == "Queued") == gives_back
    assert not gives_back or decision.status.placement.why == "no room for 2 members within 300 s: 403 exceeded quota"


def test_a_gang_that_trained_is_not_in_the_way_of_others() -> None:
    job = a_job(status=over_status())
    seen = observed(job=job, pods=(a_pod(1), a_pending_pod(2)), sessions=(), line=(BLOCKED_BEFORE, replace(WITHOUT_ROOM, has_started=True)))
    assert decide(seen).delete == ()


@pytest.mark.parametrize(
    ("status", "pods", "spec", "entry"),
    [
        (JobStatus(), (), {}, {"is_placing": False}),
        (placing_status(), (a_pod(1), a_pending_pod(2)), {}, {"is_placing": True, "has_unschedulable": True}),
        (training_status(), (a_pod(1), a_pod(2)), {}, None),
        (training_status(replacing_since=ago(299)), (a_pod(1), a_pending_pod(2)), {}, {"has_started": True, "has_unschedulable": True}),
        (training_status(replacing_since=ago(300)), (a_pod(1), a_pending_pod(2)), {}, None),
        (training_status(replacing_since=ago(-9)), (a_pod(1), a_pending_pod(2)), {}, None),
        (training_status(replacing_since=ago(9), formation=None), (a_pod(1), a_pending_pod(2)), {}, None),
        (training_status(replacing_since=ago(9), formation=a_formation(serials=(1,))), (a_pod(1), a_pending_pod(2)), {}, None),
        (JobStatus(), (), {"suspend": True}, None),
        (JobStatus(placement=Placement(backoff_until=NOW)), (), {}, {"is_placing": False, "backoff_until": NOW}),
    ],
    ids=[
        "waits",
        "is placed",
        "trains",
        "lost a member",
        "lost one long ago",
        "lost one before the clock was set back",
        "never trained",
        "asks for more than its formation has",
        "is suspended",
        "backs off",
    ],
)
def test_the_line_holds_who_waits_or_lacks_room(status, pods, spec, entry) -> None:
    found = line_entry(a_job(status=status, **spec), pods, NOW)
    if entry is None:
        assert found is None
    else:
        assert found is not None
        assert {name: getattr(found, name) for name in entry} == entry


HELD, LACKING = (a_pod(1), a_pod(2)), (a_pod(1), a_pending_pod(2))


@pytest.mark.parametrize(
    ("since", "pods", "after"),
    [
        (None, HELD, None),
        (None, LACKING, NOW),
        (ago(400), LACKING, ago(400)),
        (ago(4000), LACKING, ago(4000)),
        (ago(10), HELD, ago(10)),
        (ago(1799), HELD, ago(1799)),
        (ago(1800), HELD, None),
        (ago(-10), HELD, None),
    ],
    ids=[
        "nothing is lost",
        "the first loss",
        "a replacement of a replacement",
        "a loss that lasts",
        "whole again",
        "whole again for long",
        "the next loss is counted anew",
        "the clock was set back",
    ],
)
def test_losses_within_half_an_hour_are_counted_from_the_first(since, pods, after) -> None:
    decision = decide(observed(job=a_job(status=training_status(replacing_since=since)), pods=pods))
    assert decision.status.replacing_since == after


@pytest.mark.parametrize(("since", "pods", "after"), [(None, LACKING, ago(200)), (ago(10), LACKING, ago(10)), (None, HELD, None)])
def test_the_losses_of_a_namespace_are_counted_from_the_first_of_them(since, pods, after) -> None:
    status = training_status(replacing_since=since)
    decision = decide(observed(job=a_job(status=status), pods=pods, first_loss_at=ago(200)))
    assert decision.status.replacing_since == after


@pytest.mark.parametrize(
    "changes",
    [{"formation": a_formation(serials=(1,))}, {"formation": None}, {"placement": Placement(placing_since=ago(5)), "formation": None}],
    ids=["it grows", "it never trained", "it is placed"],
)
def test_a_job_without_a_loss_replaces_nobody(changes) -> None:
    job = a_job(status=training_status(**changes))
    assert decide(observed(job=job, pods=LACKING, sessions=(a_session(1),))).status.replacing_since is None
