"""What ended members leave behind: the same assertions for the fakes of the stories and for real agents, read by the real parser."""

from dataclasses import replace

import pytest
from tests.agent.builders import a_config
from tests.agent.members import start_all
from tests.builders.observed import NOW, a_job, observed, training_status
from tests.kube.builders import ended_pod
from tests.stories.world import World

from finetune_contract.failures import FailureClass
from finetune_contract.last_words import MAX_BYTES
from finetune_contract.messages import MemberPhase
from finetune_contract.orders import Exit
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase, PodView
from finetune_operator.kube.pod_view import parse_pod


class FakeLife:
    """Two members of the story world."""

    output_uri = "s3://out/adapter"

    async def finish_unwatched(self) -> list[PodView]:
        world = World(total_steps=6)
        world.apply()
        await world.until_step(3)
        world.stop_operator()
        await world.tick(40)
        return [pod.view for pod in world.pods.pods.values()]

    async def told_to_exit(self) -> PodView:
        world = World(total_steps=600)
        world.apply(nodes=(1, 1))
        await world.until_step(1)
        agent = world.agent(0)
        agent.inbox.append(Exit(term=world.term, why="no longer needed"))
        world.agents.tick()
        return world.pods.pods[agent.uid].view


class RealLife:
    """Two agents as processes; their termination logs become those of pods."""

    def __init__(self, folder, coordinator, begin) -> None:
        self.config, self.coordinator, self.begin = a_config(folder), coordinator, begin
        self.output_uri = self.config.output.uri

    async def finish_unwatched(self) -> list[PodView]:
        members = await self.begin(self.config, "a", "b")
        for member in members:
            await self.coordinator.until_phase(member.uid, MemberPhase.READY)
        await start_all(members, self.coordinator, formation=1)
        for member in members:
            await self.coordinator.until_phase(member.uid, MemberPhase.FINISHED, 1)
        await self.coordinator.close()
        for member in members:
            member.child.terminate()
        return [await self._view(serial, member) for serial, member in enumerate(members, start=1)]

    async def told_to_exit(self) -> PodView:
        (member,) = await self.begin(self.config, "a")
        await self.coordinator.until_phase("a", MemberPhase.READY)
        await self.coordinator.order("a", Exit(term=1, why="no longer needed"))
        return await self._view(1, member)

    async def _view(self, serial: int, member) -> PodView:
        code, path = await member.child.wait(), member.folder / "last-words"
        view = parse_pod(ended_pod(code, words=path.read_text() if path.exists() else ""))
        assert not path.exists() or path.stat().st_size <= MAX_BYTES
        return replace(view, serial=serial)


@pytest.fixture(params=["fake", "real"])
def life(request, tmp_path):
    if request.param == "fake":
        return FakeLife()
    return RealLife(tmp_path, request.getfixturevalue("coordinator"), request.getfixturevalue("begin"))


async def test_a_gang_that_finished_unwatched_is_complete_without_a_new_pod(life) -> None:
    first, second = await life.finish_unwatched()
    assert [(view.phase, view.exit_code) for view in (first, second)] == [(PodPhase.SUCCEEDED, 0)] * 2
    assert first.finished is not None
    assert (first.finished.formation, first.finished.output.uri, len(first.finished.output.sha256)) == (1, life.output_uri, 64)
    assert second.finished is None, "only node rank 0 publishes"
    assert first.last_words is second.last_words is None
    job = a_job(status=training_status(), output={"uri": life.output_uri})
    pods = tuple(replace(view, uid=f"pod-{view.serial}", created_at=NOW) for view in (first, second))
    decision = decide(observed(job=job, pods=pods, sessions=()))
    assert decision.status.is_true("Complete")
    assert decision.create == ()


async def test_a_member_that_is_told_to_exit_before_its_work_is_done_says_so(life) -> None:
    view = await life.told_to_exit()
    assert (view.phase, view.exit_code, view.finished) == (PodPhase.FAILED, 143, None)
    assert view.last_words is not None
    assert view.last_words.failure_class is FailureClass.DISRUPTED
