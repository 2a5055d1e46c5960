"""From apply to Complete, with nothing in the way."""

from tests.stories.world import World


async def test_a_job_goes_from_apply_to_complete_and_then_rests() -> None:
    world = World()
    world.apply()
    await world.until_phase("Complete")
    status = world.status()
    assert status.output is not None
    assert status.restarts.total == 0
    assert status.is_true("Finished")
    assert status.progress is not None
    assert status.progress.step == 6
    assert world.pods.made == ["bot-0001-1", "bot-0001-2"]
    assert world.agents.trained[world.job().metadata.uid] == [(1, step) for step in range(1, 7)]
    await world.tick(10)
    assert not world.live_pods()
    assert await world.is_quiet()


async def test_events_tell_the_story_in_order() -> None:
    world = World()
    world.apply()
    await world.until_phase("Complete")
    assert world.reasons() == ["Admitted", "MemberCreated", "FormationStarted", "TrainingStarted", "CheckpointSaved", "Completed"]
