"""Everything at once, by seed: whatever happens to pods, workers, channels and the operator, the job ends well and no step is skipped."""

from itertools import pairwise
from random import Random

import pytest
from tests.stories.world import World

from finetune_contract.failures import FailureClass, FailureReport

KILLED = FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message="killed by SIGKILL", rank=1, signal="SIGKILL")
TOTAL = 40


class Mischief:
    """One misfortune a call, drawn by chance."""

    def __init__(self, world: World, random: Random, names: tuple[str, ...]) -> None:
        self.world, self.random, self.names = world, random, names

    def strike(self) -> None:
        world, random = self.world, self.random
        agents = [world.agents.agents[uid] for uid in sorted(world.agents.agents) if uid in world.pods.pods]
        if not agents:
            return
        agent = random.choice(agents)
        misfortunes = {
            "pod vanishes": lambda: world.pods.delete_with_grace(agent.uid, 0),
            "pod is deleted": lambda: world.pods.delete_with_grace(agent.uid, random.choice((5, 30))),
            "agent dies": lambda: world.pods.end(agent.uid, 1),
            "worker dies": lambda: world.agents.fail(agent, KILLED) if agent.start is not None and agent.output is None else None,
            "node is cut off": lambda: setattr(agent, "is_cut_off", True),
            "channel is lost": lambda: setattr(agent, "is_mute", True),
            "channels come back": self.heal,
            "operator restarts": world.restart_operator,
            "operator dies soon": lambda: setattr(world.jobs, "dies_after_writes", random.randint(1, 3)),
            "others write": lambda: setattr(world.jobs, "conflicts", 2),
            "answers are lost": lambda: setattr(world.pods, "lost_answers", 1),
            "the list of pods is stale": lambda: setattr(world.pods, "is_stale", True),
            "the list of pods is fresh": lambda: setattr(world.pods, "is_stale", False),
            "a job is suspended": lambda: self.suspend(True),
            "a job is resumed": lambda: self.suspend(False),
            "room shrinks": lambda: setattr(world.pods, "slots", 1),
            "room grows": lambda: setattr(world.pods, "slots", 4),
            "quota shrinks": lambda: setattr(world.pods, "quota", 2),
            "quota grows": lambda: setattr(world.pods, "quota", None),
        }
        misfortunes[random.choice(sorted(misfortunes))]()

    def suspend(self, suspend: bool) -> None:
        name = self.random.choice(self.names)
        if self.world.job(name).spec.suspend != suspend:
            self.world.change_spec(name, suspend=suspend)

    def end(self) -> None:
        """From now on the world is kind."""
        self.heal()
        self.world.pods.quota, self.world.pods.slots, self.world.pods.is_stale = None, max(self.world.pods.slots, 4), False
        for name in self.names:
            self.world.change_spec(name, suspend=False)

    def heal(self) -> None:
        for agent in self.world.agents.agents.values():
            agent.is_mute = agent.is_cut_off = False


async def survives(seed: int, names: tuple[str, ...], spares: int = 0) -> None:
    random = Random(seed)
    world = World(total_steps=TOTAL, slots=random.choice((2, 3, 100)))
    for name in names:
        nodes = random.choice(((1, 1), (2, 2), (1, 3), (3, 3)))
        world.apply(
            name,
            nodes=nodes,
            spares=spares,
            priority=random.randint(0, 1),
            placement={"timeout_seconds": 20},
            restart_policy={"max_crashes_without_progress": 100},
        )
    mischief = Mischief(world, random, names)
    for _ in range(15):
        await world.tick(random.randint(1, 12))
        mischief.strike()
    mischief.end()
    for name in names:
        await world.until_phase("Complete", name, within_seconds=900)
        steps = world.steps(name)
        assert sorted(set(steps)) == list(range(1, TOTAL + 1))
        assert all(after <= before + 1 for before, after in pairwise(steps)), "no step was skipped"
    assert await world.rests(*names)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_job_ends_well(seed) -> None:
    await survives(seed, ("bot",))


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_all_of_several_jobs_end_well(seed) -> None:
    await survives(seed, ("a", "b", "c"))


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_jobs_with_spares_end_well(seed) -> None:
    await survives(seed, ("a", "b")[: 1 + seed % 2], spares=1 + seed % 3)
