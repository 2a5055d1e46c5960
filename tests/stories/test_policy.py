"""Gangs that somebody else places, beside gangs of our own: the same rules, another policy."""

from tests.builders.observed import (
    a_fresh_session,
    a_job,
    a_line_entry,
    a_pending_pod,
    a_pod,
    a_session,
    observed,
    over_status,
    placing_status,
    training_status,
)
from tests.builders.policy import GATE, LABEL, NO_TICKET, TicketPlacement
from tests.stories.world import World

from finetune_operator.api.status import MemberEntry
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.policy import NATIVE

TOTAL = 30
HALF = (a_pod(1), a_pending_pod(2))
LINE = (a_line_entry("before", has_unschedulable=True),)


async def training(*, slots: int = 100, **spec) -> World:
    """Formation 1 of a gang with a ticket."""
    world = World(slots=slots, total_steps=TOTAL, policy_of=TicketPlacement(drawn={"ticket"}).policy_of)
    world.apply("ticket", **spec)
    await world.tick()
    world.pods.open_gates()
    await world.until_step(3, "ticket")
    return world


async def completes(world: World) -> None:
    await world.until_phase("Complete", "ticket", within_seconds=200)
    assert await world.rests("ticket")
    assert world.steps("ticket") == list(range(1, TOTAL + 1)), "no step was lost"


async def test_a_gang_waits_for_its_policy_and_not_for_room_and_nobody_waits_for_it() -> None:
    policy = TicketPlacement()
    world = World(slots=4, total_steps=TOTAL, policy_of=policy.policy_of)
    world.apply("ticket", priority=1000)
    await world.tick()
    world.apply("native")
    await world.until_step(3, "native")
    assert world.made("ticket") == []
    admitted = world.status("ticket").condition("Admitted")
    assert (admitted.status, admitted.reason, admitted.message) == ("False", NO_TICKET.reason, NO_TICKET.message)
    assert await world.is_quiet()
    policy.drawn.add("ticket")
    await world.tick()
    assert world.made("ticket") == ["ticket-0001-1", "ticket-0001-2"]


async def test_its_pods_carry_what_the_policy_hangs_on_them() -> None:
    world = World(total_steps=TOTAL, policy_of=TicketPlacement(drawn={"ticket"}).policy_of)
    world.apply("ticket")
    world.apply("native")
    await world.until_step(3, "native")
    hung = {pod.view.name: pod.decoration for pod in world.pods.pods.values()}
    assert [dict(hung[f"ticket-0001-{serial}"].labels) for serial in (1, 2)] == [{LABEL: "ticket"}] * 2
    assert hung["ticket-0001-1"].scheduling_gates == (GATE,)
    assert hung["native-0002-1"] == NATIVE.decoration_of(world.job("native"), 1)
    assert world.status("ticket").formation is None, "no node is looked for before its gates are open"
    world.pods.open_gates()
    await world.until_step(3, "ticket")


async def test_a_leaving_member_is_replaced_when_it_has_ended() -> None:
    world = await training()
    leaving = world.agent(1, "ticket")
    world.pods.delete_with_grace(leaving.uid, 6)
    while leaving.uid in world.pods.pods:
        assert len(world.made("ticket")) == 2, "never two pods for one place"
        await world.tick()
    assert world.made("ticket") == [f"ticket-0001-{serial}" for serial in (1, 2, 3)]
    world.pods.open_gates()
    await world.until(lambda: world.status("ticket").last_formation == 2)
    assert world.status("ticket").formation.serials == (1, 3)
    assert (world.status("ticket").restarts.disruptions, world.status("ticket").restarts.crashes) == (1, 0)
    await completes(world)


async def test_a_member_that_leaves_and_is_cut_off_is_not_waited_for() -> None:
    world = await training()
    leaving = world.agent(1, "ticket")
    world.pods.delete_with_grace(leaving.uid, 600)
    leaving.is_cut_off = True
    await world.until(lambda: len(world.made("ticket")) == 3, within_seconds=10)
    world.pods.open_gates()
    await completes(world)


async def test_a_policy_without_spares_gets_none() -> None:
    world = await training(spares=1)
    world.apply("native", spares=1)
    await world.until(lambda: world.status("native").ready_spares == 1)
    assert len(world.made("ticket")) == 2
    await completes(world)


async def test_extras_are_asked_for_with_leave_and_given_back_without() -> None:
    policy = TicketPlacement(drawn={"ticket"})
    world = World(total_steps=TOTAL, policy_of=policy.policy_of)
    world.apply("ticket", nodes=(2, 3))
    world.apply("native", nodes=(2, 3))
    await world.tick()
    world.pods.open_gates()
    await world.until_step(5, "ticket")
    assert (len(world.made("ticket")), len(world.made("native"))) == (2, 3)
    policy.drawn.add("ticket extras")
    await world.tick()
    assert len(world.live_pods("ticket")) == 3
    policy.drawn.remove("ticket extras")
    await world.tick()
    assert len(world.live_pods("ticket")) == 2, "it had no node yet"
    policy.drawn.add("ticket extras")
    await world.tick()
    world.pods.open_gates()
    await world.until(lambda: len(world.status("ticket").formation.serials) == 3)
    await completes(world)


async def test_a_gang_that_finds_no_room_keeps_its_pods_and_others_go_past_it() -> None:
    world = World(slots=3, total_steps=TOTAL, policy_of=TicketPlacement(drawn={"ticket"}).policy_of)
    world.apply("ticket", nodes=(4, 4), placement={"timeout_seconds": 20})
    await world.tick()
    world.pods.open_gates(2)
    await world.tick(100)
    world.apply("native", nodes=(1, 1))
    await world.until_phase("Complete", "native")
    assert (len(world.live_pods("ticket")), len(world.made("ticket"))) == (4, 4)
    world.pods.slots = 4
    world.pods.open_gates()
    await completes(world)


def test_it_never_gives_back_and_waits_for_no_deadline_that_has_passed() -> None:
    placing = observed(job=a_job(status=placing_status(since=400)), pods=HALF, sessions=(), line=LINE)
    pods = (a_pod(1), a_pending_pod(2, created_at=a_pod(1).created_at.replace(hour=1)))
    broken = observed(job=a_job(status=over_status(since=400)), pods=pods, sessions=(), line=LINE)
    for seen in (placing, broken):
        assert decide(seen).status.members == ()
        kept = decide(seen, TicketPlacement())
        assert [entry.serial for entry in kept.status.members] == [1, 2]
        assert (kept.create, kept.delete) == ((), ())
        assert kept.look_again_seconds > 0


def test_a_spare_that_has_its_place_makes_way_for_nobody() -> None:
    members = (*training_status().members, MemberEntry(serial=3, uid="pod-3", is_spare=True))
    job = a_job(status=training_status(members=members, last_serial=3), spares=1)
    seen = observed(job=job, pods=(a_pod(1), a_pod(2), a_pod(3)), sessions=(a_session(1), a_session(2), a_fresh_session(3)), line=LINE)
    assert [doomed.uid for doomed in decide(seen).delete] == ["pod-3"]
    assert decide(seen, TicketPlacement()).delete == ()


async def test_a_creation_that_is_refused_is_tried_again_and_costs_no_other_pod() -> None:
    world = World(total_steps=TOTAL, policy_of=TicketPlacement(drawn={"ticket"}).policy_of)
    world.pods.quota = 1
    world.apply("ticket")
    await world.tick(10)
    assert world.live_pods("ticket") == ["uid-001-ticket-0001-1"]
    assert world.status("ticket").columns.reason == "Refused"
    world.pods.quota = None
    await world.until(lambda: len(world.made("ticket")) == 2)
    world.pods.open_gates()
    await completes(world)
