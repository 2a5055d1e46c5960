"""What the agent does when workers die, hang or explain themselves: the right report, nothing left, ready for the next formation."""

import os
import re
import signal

import pytest
from tests.agent.builders import a_config, a_training
from tests.agent.members import start_all
from tests.builders.machine import slowness

from finetune_agent.processes.proc_tree import below, read_processes
from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.messages import Failed, MemberPhase
from finetune_contract.orders import Stop
from finetune_contract.reports import Committed, Progress, Warned

ENDLESS = a_training(max_steps=100_000)


def workers_below(agent_pid: int) -> list[int]:
    """Forked workers: grandchildren of the zygote, found by what /proc tells."""
    return [entry.pid for entry in below(agent_pid) if _depth(entry.pid, agent_pid) == 3]


def _depth(pid: int, root: int) -> int:
    parents = {entry.pid: entry.parent for entry in below(root)}
    depth = 0
    while pid != root:
        pid, depth = parents[pid], depth + 1
    return depth


async def train(coordinator, members, **changes) -> None:
    for member in members:
        await coordinator.until_phase(member.uid, MemberPhase.READY)
    await start_all(members, coordinator, **({"formation": 1} | changes))
    for member in members:
        await coordinator.until_phase(member.uid, MemberPhase.TRAINING)
    await coordinator.until(lambda: coordinator.heard(members[0].uid, Progress))


async def test_a_killed_worker_is_reported_within_two_seconds_and_the_next_formation_goes_on_from_the_snapshot(
    tmp_path, coordinator, begin
):
    members = await begin(a_config(tmp_path, training=ENDLESS), "a", "b")
    await train(coordinator, members)
    (victim,) = workers_below(members[1].pid)
    os.kill(victim, signal.SIGKILL)
    await coordinator.until(lambda: coordinator.heard("b", Failed), seconds=2 * slowness())
    report = coordinator.heard("b", Failed)[0].report
    assert (report.failure_class, report.signal, report.rank) == (FailureClass.INFRASTRUCTURE, "SIGKILL", 1)
    await coordinator.until(lambda: coordinator.heard("a", Failed), seconds=3 * slowness())
    assert "peer lost" in coordinator.heard("a", Failed)[0].report.message
    for member in members:
        failed = await coordinator.until_phase(member.uid, MemberPhase.FAILED, 1, seconds=3 * slowness())
        assert workers_below(member.pid) == []
    step = failed.snapshot.step
    await start_all(list(reversed(members)), coordinator, formation=2, resume=failed.snapshot, resume_node_rank=0)
    training = await coordinator.until_phase("a", MemberPhase.TRAINING, 2)
    assert training.resumed_step >= step > 0


@pytest.mark.parametrize("which", ["launcher", "zygote"])
async def test_a_launcher_or_a_zygote_that_is_killed_takes_its_workers_along_and_the_next_formation_works(
    which, tmp_path, coordinator, begin
):
    (member,) = await begin(a_config(tmp_path, training=ENDLESS), "a")
    await train(coordinator, [member])
    (worker,) = workers_below(member.pid)
    parents = {entry.pid: entry.parent for entry in below(member.pid)}
    launcher = parents[worker]
    os.kill(launcher if which == "launcher" else parents[launcher], signal.SIGKILL)
    await coordinator.until_phase("a", MemberPhase.FAILED, 1, seconds=5 * slowness())
    assert coordinator.heard("a", Failed)[0].report.failure_class is FailureClass.INFRASTRUCTURE
    assert worker not in {entry.pid for entry in read_processes()}
    await start_all([member], coordinator, formation=2)
    await coordinator.until_phase("a", MemberPhase.TRAINING, 2)


async def test_a_stop_leaves_nothing_of_a_worker_that_started_processes_in_sessions_of_their_own(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path, training=ENDLESS), "a", FAKE_TRAINER="stray")
    await coordinator.until_phase("a", MemberPhase.READY)
    before = {entry.pid for entry in below(member.pid)}
    await train(coordinator, [member])
    assert len({entry.pid for entry in below(member.pid)} - before) == 3  # launcher, worker, stray
    await coordinator.order("a", Stop(term=1, formation=1, why="test"))
    await coordinator.until_phase("a", MemberPhase.STOPPED, 1)
    assert {entry.pid for entry in below(member.pid)} == before


async def test_the_words_of_a_worker_win_over_its_exit_code(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path), "a", FAKE_TRAINER="row 17")
    await coordinator.until_phase("a", MemberPhase.READY)
    await start_all([member], coordinator, formation=1)
    await coordinator.until_phase("a", MemberPhase.FAILED, 1)
    assert [failed.report.message for failed in coordinator.heard("a", Failed)] == ["row 17: no messages"]


async def test_an_outdated_term_and_an_outdated_formation_are_refused(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path, training=ENDLESS), "a")
    await train(coordinator, [member], formation=3, term=5)
    (worker,) = workers_below(member.pid)
    await coordinator.order("a", Stop(term=4, formation=3, why="an old leader"))
    await coordinator.order("a", Stop(term=5, formation=2, why="an old formation"))
    await start_all([member], coordinator, formation=3, term=6)
    step = coordinator.heard("a", Progress)[-1].step
    await coordinator.until(lambda: coordinator.heard("a", Progress)[-1].step > step + 5)
    assert workers_below(member.pid) == [worker]


async def test_other_inputs_than_the_pinned_ones_are_refused_by_name(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path), "a")
    ready = await coordinator.until_phase("a", MemberPhase.READY)
    await start_all([member], coordinator, formation=1, inputs=ready.inputs.model_copy(update={"dataset": "0" * 64}))
    await coordinator.until_phase("a", MemberPhase.FAILED, 1)
    report = coordinator.heard("a", Failed)[0].report
    assert report.failure_class is FailureClass.USER_ERROR
    assert re.match(r"spec\.dataset\.uri: the data at file://.* changed since this job was admitted", report.message)


async def test_a_stop_with_save_commits_the_newest_snapshot_and_a_fresh_member_resumes_from_it(tmp_path, coordinator, begin):
    (first,) = await begin(a_config(tmp_path, training=ENDLESS), "a")
    await train(coordinator, [first])
    await coordinator.until(lambda: coordinator.heard("a", Progress)[-1].step >= 10)
    await coordinator.order("a", Stop(term=1, formation=1, why="suspended", save=True))
    stopped = await coordinator.until_phase("a", MemberPhase.STOPPED, 1)
    assert stopped.commit == stopped.snapshot
    assert (tmp_path / "checkpoints" / coordinator.heard("a", Committed)[-1].key).exists()
    (second,) = await begin(a_config(tmp_path, training=ENDLESS), "b")
    await train(coordinator, [second], formation=2)
    assert (await coordinator.until_phase("b", MemberPhase.TRAINING, 2)).resumed_step == stopped.commit.step


async def test_a_leaving_member_trains_on_then_commits_its_last_step_and_exits_143_with_last_words(tmp_path, coordinator, begin):
    config = a_config(tmp_path, training=ENDLESS)
    (member,) = await begin(config, "a", FINETUNE_GRACE_SECONDS="3")
    await train(coordinator, [member])
    step = coordinator.heard("a", Progress)[-1].step
    member.child.terminate()
    await coordinator.until(lambda: coordinator.heard("a", Progress)[-1].step > step + 10)
    assert await member.child.wait() == 143
    words = FailureReport.model_validate_json((member.folder / "last-words").read_text())
    assert words.failure_class is FailureClass.DISRUPTED
    newest = max(path.name for path in (tmp_path / "checkpoints").glob("*/commit/*.json"))
    assert int(newest[8:17]) >= coordinator.heard("a", Progress)[-1].step


async def test_a_leaving_member_that_cannot_commit_says_which_step_may_be_lost(tmp_path, coordinator, begin):
    (member,) = await begin(a_config(tmp_path, training=ENDLESS), "a", FINETUNE_GRACE_SECONDS="3")
    await train(coordinator, [member])
    await coordinator.until(lambda: coordinator.heard("a", Committed))
    (tmp_path / "checkpoints").rename(tmp_path / "before")
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    member.child.terminate()
    assert await member.child.wait() == 143
    (late,) = [warned for warned in coordinator.heard("a", Warned) if warned.reason == "CommitLate"]
    committed = coordinator.heard("a", Committed)[-1].state.step
    assert f"could not be committed before this member ended, its newest commit holds step {committed};" in late.message
