"""How lives end before, beside or after training: suspended, failed, skipped, finished."""

import pytest
from tests.stories.world import World

from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.reports import Output
from finetune_contract.state import StateId

TOTAL = 20


def report(failure_class: FailureClass, message: str) -> FailureReport:
    return FailureReport(failure_class=failure_class, message=message, rank=0)


async def training(step: int = 5, **spec) -> World:
    world = World(total_steps=TOTAL)
    world.apply(**spec)
    await world.until_step(step)
    return world


async def ends(world: World, phase: str) -> None:
    await world.until_phase(phase, within_seconds=120)
    assert await world.rests()


async def test_suspend_saves_and_frees_and_resume_goes_on() -> None:
    world = await training(step=5)
    world.change_spec(suspend=True)
    await ends(world, "Suspended")
    done = world.steps()[-1]
    assert world.agents.store[world.job().metadata.uid] == StateId(formation=1, step=done), "the newest step is committed"
    assert world.status().last_commit.step == done
    assert world.pods.pods == {}
    world.change_spec(suspend=False)
    await ends(world, "Complete")
    assert world.steps() == list(range(1, TOTAL + 1))
    assert world.status().restarts.total == 0
    assert world.reasons().count("Suspended") == 1


async def test_suspend_frees_the_pods_also_when_the_store_is_away() -> None:
    world = await training(step=5)
    world.agents.is_store_away = True
    world.change_spec(suspend=True)
    await ends(world, "Suspended")
    assert not world.live_pods()


async def test_suspend_in_the_reconnect_window_saves_first() -> None:
    world = await training(step=5)
    world.stop_operator()
    world.change_spec(suspend=True)
    world.restart_operator()
    await ends(world, "Suspended")
    assert world.agents.store[world.job().metadata.uid].step == world.steps()[-1]


async def test_a_job_that_was_suspended_from_the_start_has_no_pods() -> None:
    world = World(total_steps=TOTAL)
    world.apply(suspend=True)
    await ends(world, "Suspended")
    assert world.made() == []
    world.change_spec(suspend=False)
    await ends(world, "Complete")


async def test_a_suspended_job_leaves_the_line_to_others() -> None:
    world = World(slots=2, total_steps=TOTAL)
    world.apply("a")
    world.apply("b")
    await world.until_step(3, "a")
    world.change_spec("a", suspend=True)
    await world.until_phase("Complete", "b")
    world.change_spec("a", suspend=False)
    await world.until_phase("Complete", "a")
    assert world.steps("a") == list(range(1, TOTAL + 1))


async def test_an_error_of_the_user_in_training_fails_at_once_in_their_words() -> None:
    world = World(total_steps=TOTAL)
    world.agents.faults[3] = report(FailureClass.USER_ERROR, "rows.jsonl:7: wanted messages, got prompt")
    world.apply()
    await ends(world, "Failed")
    failed = world.status().condition("Failed")
    assert (failed.reason, failed.message) == ("UserError", "rows.jsonl:7: wanted messages, got prompt")
    assert world.status().last_formation == 1
    assert world.made() == ["bot-0001-1", "bot-0001-2"]
    assert world.reasons()[-1] == "Failed"


@pytest.mark.parametrize(
    "message",
    ["spec.model.uri: hf://org/model was not found", "spec.output.uri: another job's adapter is there (ifExists: Fail)"],
)
async def test_an_error_of_the_user_while_preparing_fails_at_once(message) -> None:
    world = World(total_steps=TOTAL)
    world.agents.prepare_failure = FailureReport(failure_class=FailureClass.USER_ERROR, message=message)
    world.apply()
    await ends(world, "Failed")
    assert world.status().condition("Failed").message == message
    assert world.status().last_formation == 0


async def test_an_adapter_that_is_there_already_completes_the_job_without_training() -> None:
    world = World(total_steps=TOTAL)
    world.agents.found_output = Output(uri="s3://out/adapter", sha256="a" * 64, num_bytes=1000, step=100, already_present=True)
    world.apply(output={"uri": "s3://out/adapter", "if_exists": "Skip"})
    await ends(world, "Complete")
    assert world.steps() == []
    assert world.status().output.sha256 == "a" * 64
    assert world.status().condition("Complete").message == "the adapter was there already: s3://out/adapter"


@pytest.mark.parametrize("failure_class", [FailureClass.INFRASTRUCTURE, FailureClass.INTERNAL, FailureClass.HANG])
async def test_crashes_without_progress_use_up_the_budget(failure_class) -> None:
    world = await training(step=5)
    world.agents.fault_always = report(failure_class, "it broke")
    await ends(world, "Failed")
    status = world.status()
    assert status.condition("Failed").reason == failure_class
    assert status.condition("Failed").message == (
        "3 crashes without a new finished step (restartPolicy.maxCrashesWithoutProgress); the last crash: rank 0 on bot-0001-1: it broke"
    )
    assert status.last_formation == 4, "the first crash came after progress"
    assert status.restarts.crashes == 4


async def test_crashes_with_progress_in_between_never_end_a_job() -> None:
    world = World(total_steps=TOTAL)
    world.agents.faults = {step: report(FailureClass.INFRASTRUCTURE, "it broke") for step in range(2, 12)}
    world.apply()
    await ends(world, "Complete")
    assert world.status().restarts.crashes == 10
    assert world.status().restarts.crashes_without_progress == 0
    assert world.steps() == list(range(1, TOTAL + 1))


async def test_members_that_cannot_prepare_use_up_the_budget_also_after_training() -> None:
    world = await training(step=5)
    world.agents.prepare_failure = FailureReport(failure_class=FailureClass.INTERNAL, message="no zygote")
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await ends(world, "Failed")
    assert len(world.made()) == 5, "two members and three replacements"


async def test_a_replacement_that_finds_other_bytes_never_trains() -> None:
    world = await training(step=5)
    world.agents.inputs = world.agents.inputs.model_copy(update={"dataset": "x" * 64})
    world.pods.delete_with_grace(world.agent(1).uid, 0)
    await ends(world, "Failed")
    assert world.status().condition("Failed").message.startswith("spec.dataset.uri: bot-0001-3 found other bytes at s3://data/rows.jsonl")
    assert world.status().last_formation == 1


async def test_a_loss_that_is_not_finite_is_replayed_once_and_then_fails() -> None:
    world = World(total_steps=TOTAL)
    world.agents.faults[4] = report(FailureClass.NOT_FINITE, "loss is nan at step 4")
    world.apply()
    await world.until_step(6)
    world.agents.fault_always = report(FailureClass.NOT_FINITE, "loss is nan at step 7")
    await ends(world, "Failed")
    assert "a replay from the last good step was not finite either" in world.status().condition("Failed").message


async def test_pods_of_an_ended_job_stay_for_their_logs_until_the_ttl() -> None:
    world = World(total_steps=TOTAL)
    world.apply(ttl_seconds_after_finished=60)
    await world.until_phase("Complete")
    await world.tick(4)
    assert len(world.pods.pods) == 2
    await world.tick(120)
    assert world.pods.pods == {}
    assert await world.rests()
