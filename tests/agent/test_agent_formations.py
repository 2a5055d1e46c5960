"""The life of real agents with real forked workers, ordered about by a coordinator in the test."""

import hashlib

from tests.agent.builders import a_config, a_training
from tests.agent.members import start_all
from tests.agent.object_stores import an_s3_store, write_credentials
from tests.agent.test_inputs import s3_config, upload

from finetune_contract.commits import OutputManifest
from finetune_contract.config import ModelConfig
from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import Failed, Hello, Leaving, MemberPhase, PhaseChanged
from finetune_contract.orders import Exit, Inspect
from finetune_contract.reports import Committed, Progress


async def test_a_gang_of_two_trains_to_a_published_adapter_and_exits_with_zero(tmp_path, coordinator, begin):
    config = a_config(tmp_path)
    members = await begin(config, "a", "b")
    for member in members:
        ready = await coordinator.until_phase(member.uid, MemberPhase.READY)
        assert ready.inputs is not None
    await start_all(members, coordinator, formation=1)
    finished = await coordinator.until_phase("a", MemberPhase.FINISHED, 1)
    await coordinator.until_phase("b", MemberPhase.FINISHED, 1)
    manifest = OutputManifest.model_validate_json((tmp_path / "adapter/finetune-manifest.json").read_text())
    assert (manifest.step, manifest.formation) == (5, 1)
    assert finished.output.sha256 == next(file.sha256 for file in manifest.files if file.name == "adapter_model.safetensors")
    phases = [message.phase for message in coordinator.heard("a", PhaseChanged)]
    told = [MemberPhase.READY, MemberPhase.STARTING, MemberPhase.TRAINING, MemberPhase.EXPORTING, MemberPhase.FINISHED]
    assert [phase for phase in dict.fromkeys(phases) if phase in told] == told
    assert coordinator.heard("a", Progress)[-1].step == 5
    assert coordinator.heard("b", Progress) == []
    for member in members:
        await coordinator.order(member.uid, Exit(term=1, why="complete"))
        assert await member.child.wait() == 0


async def test_inputs_commits_and_adapter_may_all_lie_in_s3(tmp_path, coordinator, begin, s3_endpoint, s3_bucket):
    upload(tmp_path, s3_endpoint, s3_bucket)
    keys = write_credentials(tmp_path / "keys")
    config = s3_config(tmp_path, s3_endpoint, s3_bucket, training=a_training(max_steps=50))
    (member,) = await begin(config, "a", FINETUNE_CREDENTIALS_DIR=str(keys))
    await coordinator.until_phase("a", MemberPhase.READY)
    await start_all([member], coordinator, formation=1)
    output = (await coordinator.until_phase("a", MemberPhase.FINISHED, 1)).output
    store = an_s3_store(s3_endpoint, keys, bucket=s3_bucket)
    assert output.sha256 == hashlib.sha256(store.get("adapter/adapter_model.safetensors")).hexdigest()
    assert coordinator.heard("a", Committed)
    assert store.list("ckpt/0000aaaa-1111/commit/")
    await begin(config, "b", FINETUNE_CREDENTIALS_DIR=str(keys))
    assert (await coordinator.until_phase("b", MemberPhase.FINISHED)).output == output


async def test_a_file_of_the_model_that_changed_between_two_formations_ends_the_member_by_name(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path, training=a_training(max_steps=100_000)), "a")
    await coordinator.until_phase("a", MemberPhase.READY)
    for formation in (1, 2):
        await start_all([member], coordinator, formation=formation)
        await coordinator.until_phase("a", MemberPhase.TRAINING, formation)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    await start_all([member], coordinator, formation=3)
    assert await member.child.wait() == 1
    words = FailureReport.model_validate_json((member.folder / "last-words").read_text())
    assert words.failure_class is FailureClass.INFRASTRUCTURE
    assert f"{weights} was changed after it was checked" in words.message


async def test_an_order_about_another_run_is_refused(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path), "a")
    await coordinator.until_phase("a", MemberPhase.READY)
    await start_all([member], coordinator, formation=5, run="other")
    await start_all([member], coordinator, formation=1, run=coordinator.heard("a", Hello)[-1].job_uid)
    training = await coordinator.until_phase("a", MemberPhase.TRAINING, 1)
    await coordinator.until(lambda: coordinator.heard("a", Progress))
    assert {training.run, coordinator.heard("a", Progress)[0].run} == {coordinator.heard("a", Hello)[-1].job_uid}


async def test_a_member_that_hands_over_keeps_the_step_that_its_peer_has_told(tmp_path, coordinator, begin):
    config = a_config(tmp_path, training=a_training(max_steps=100_000))
    members = await begin(config, "a", "b", FAKE_TRAINER="late snapshots")
    for member in members:
        await coordinator.until_phase(member.uid, MemberPhase.READY)
    await start_all(members, coordinator, formation=1)
    await coordinator.until(lambda: coordinator.heard("a", Progress) and coordinator.heard("a", Progress)[-1].step > 2)
    await start_all(members[1:], coordinator, formation=2)
    training = await coordinator.until_phase("b", MemberPhase.TRAINING, 2)
    assert training.resumed_step >= max(progress.step for progress in coordinator.heard("a", Progress) if progress.formation == 1)


async def test_a_member_that_cannot_prepare_says_why_in_the_channel_and_in_its_last_words(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path, model=ModelConfig(uri="file:///nowhere", revision=None)), "a")
    await coordinator.until(lambda: coordinator.heard("a", Failed))
    await coordinator.until_phase("a", MemberPhase.FAILED)
    await coordinator.order("a", Exit(term=1, why="the job failed"))
    assert await member.child.wait() == 143
    words = FailureReport.model_validate_json((member.folder / "last-words").read_text())
    assert words == coordinator.heard("a", Failed)[0].report
    assert words.message.startswith("spec.model.uri: file:///nowhere")


async def test_a_member_without_workers_leaves_at_once(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path), "a", FINETUNE_GRACE_SECONDS="600")
    await coordinator.until(lambda: coordinator.heard("a", Hello))
    member.child.terminate()
    await coordinator.until(lambda: coordinator.heard("a", Leaving))
    assert await member.child.wait() == 143


async def test_a_trainer_that_cannot_be_loaded_ends_the_member_with_a_reason(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path), "a", FINETUNE_WORKER="no_such_trainer:run_rank")
    assert await member.child.wait() == 1
    assert "the trainer cannot be loaded" in (member.folder / "last-words").read_text()


async def test_inspect_writes_the_stacks_of_the_workers_to_the_log(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path, training=a_training(max_steps=100_000)), "a")
    await coordinator.until_phase("a", MemberPhase.READY)
    await start_all([member], coordinator, formation=1)
    await coordinator.until(lambda: coordinator.heard("a", Progress))
    await coordinator.order("a", Inspect(term=1))
    step = coordinator.heard("a", Progress)[-1].step
    await coordinator.until(lambda: coordinator.heard("a", Progress)[-1].step > step + 20)
    assert "fake_trainer.py" in (member.folder / "log").read_text()
