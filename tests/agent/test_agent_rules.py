"""The agent's judgements: whose report explains an end, when a rank hangs, how much of it fits into last words."""

import asyncio

import pytest
from tests.agent.members import Member

from finetune_agent.launching.client import zygote_environment
from finetune_agent.member.beat_watch import BeatWatch
from finetune_agent.member.between_steps import stop_between_steps
from finetune_agent.member.last_words import write_last_words
from finetune_agent.member.local_ranks import LocalRanks
from finetune_agent.member.progress_gate import ProgressGate
from finetune_agent.member.sigstop import SigstopDetector, read_process_state
from finetune_agent.processes.memory_file import open_memory_file
from finetune_agent.settings import SettingMissing, read_settings
from finetune_contract.beat import Beat
from finetune_contract.failures import FailureClass, FailureReport
from finetune_contract.last_words import MAX_BYTES
from finetune_contract.reports import Progress
from finetune_contract.run_order import WorkerPhase


def a_report(message: str, rank: int, **changes) -> FailureReport:
    return FailureReport(**({"failure_class": FailureClass.INFRASTRUCTURE, "message": message, "rank": rank} | changes))


PEER_LOST = a_report("peer lost: connection closed", 0)
KILLED = a_report("rank 1 was ended by SIGKILL", 1, signal="SIGKILL")
EXITED = a_report("rank 0 ended with exit code 1", 0, failure_class=FailureClass.INTERNAL, exit_code=1)


@pytest.mark.parametrize(
    ("reports", "cause", "is_certain"),
    [
        ([], None, False),
        ([PEER_LOST], PEER_LOST, False),
        ([PEER_LOST, KILLED], KILLED, True),
        ([PEER_LOST, EXITED], PEER_LOST, False),
        ([KILLED, PEER_LOST], KILLED, True),
    ],
)
def test_the_cause_is_told_before_its_victims_and_a_ranks_own_words_before_its_exit_code(reports, cause, is_certain):
    ranks = LocalRanks(num_local=2)
    for report in reports:
        ranks.add(report)
    assert (ranks.cause, ranks.is_certain) == (cause, is_certain)


class Watched:
    """Two local ranks of node rank 1 under a clock that the test turns."""

    def __init__(self, folder) -> None:
        fd = open_memory_file(folder)
        Beat.reserve(fd)
        self.beat, self.now = Beat(fd), 0.0
        self.watch = BeatWatch(beat=self.beat, num_local=2, clock=lambda: self.now)
        self.watch.enter(WorkerPhase(phase="training"))

    def pass_seconds(self, seconds: float, *beating: int):
        self.now += seconds
        for rank in beating:
            self.beat.advance(rank)
        return self.watch.judge(set(), 2)


def test_a_silent_rank_is_named_after_its_deadline_and_not_before(tmp_path):
    watched = Watched(tmp_path)
    assert [watched.pass_seconds(8, 0) for _ in range(3)] == [None, None, None]
    report = watched.pass_seconds(8, 0)
    assert (report.failure_class, report.rank) == (FailureClass.HANG, 3)
    assert "no progress for 32 s in phase training" in report.message


def test_an_export_has_longer_by_the_bytes_that_it_writes(tmp_path):
    watched = Watched(tmp_path)
    watched.watch.enter(WorkerPhase(phase="exporting", num_bytes=1_000_000_000))
    assert watched.pass_seconds(499) is None
    assert "in phase exporting" in watched.pass_seconds(2).message


def test_once_the_pace_is_known_a_hang_is_told_within_five_seconds(tmp_path):
    watched = Watched(tmp_path)
    assert [watched.pass_seconds(0.5, 0, 1) for _ in range(6)] == [None] * 6
    assert watched.pass_seconds(4.4) is None
    assert "no progress for 5 s" in watched.pass_seconds(0.2).message


def test_beats_between_two_looks_tell_the_pace_too(tmp_path):
    watched = Watched(tmp_path)
    assert watched.pass_seconds(0.5, *[0] * 8, 1) is None
    assert "no progress for 5 s" in watched.pass_seconds(5.1).message


def test_a_rank_that_gets_on_within_a_long_micro_batch_does_not_hang(tmp_path):
    watched = Watched(tmp_path)
    assert [watched.pass_seconds(0.5, 0, 1) for _ in range(6)] == [None] * 6
    for _ in range(20):
        watched.beat.advance_within(0)
        watched.beat.advance_within(1)
        assert watched.pass_seconds(4) is None
    assert "no progress for 5 s" in watched.pass_seconds(4.6).message


def test_a_micro_batch_larger_than_all_before_it_has_longer_in_proportion(tmp_path):
    watched = Watched(tmp_path)
    watched.beat.set_tokens(0, 100)
    assert [watched.pass_seconds(1.0, 0, 1) for _ in range(6)] == [None] * 6
    watched.beat.set_tokens(0, 1000)
    watched.beat.set_tokens(1, 1000)  # what the largest micro-batch of its peers has
    watched.beat.set_waiting(1, True)
    assert watched.pass_seconds(29) is None
    assert "rank 2 hangs: no progress for 31 s" in watched.pass_seconds(2).message


def test_of_two_silent_ranks_the_one_that_does_not_wait_for_its_peers_is_to_blame(tmp_path):
    watched = Watched(tmp_path)
    assert [watched.pass_seconds(0.5, 0, 1) for _ in range(6)] == [None] * 6
    watched.beat.set_waiting(1, True)
    watched.pass_seconds(0.1, 0)
    assert watched.pass_seconds(5.2).message.startswith("rank 2 hangs")


def test_a_rank_that_waits_for_its_peers_lets_their_agents_speak_first(tmp_path):
    watched = Watched(tmp_path)
    assert [watched.pass_seconds(0.5, 0, 1) for _ in range(6)] == [None] * 6
    watched.beat.set_waiting(0, True)
    watched.beat.set_waiting(1, True)
    assert watched.pass_seconds(6) is None
    assert "waits for its peers" in watched.pass_seconds(1.2).message


@pytest.fixture
async def sleeper():
    process = await asyncio.create_subprocess_exec("sleep", "600")
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_a_worker_is_left_stopped_where_it_owes_no_snapshot(sleeper):
    answers = iter([False, True, False, True, True])  # the third: between the first look and the stop a step began to end
    assert await stop_between_steps(sleeper.pid, lambda: next(answers))
    assert read_process_state(sleeper.pid) == "T"
    assert next(answers, None) is None


async def test_a_worker_that_owes_a_snapshot_for_ever_is_not_waited_for(sleeper):
    assert not await stop_between_steps(sleeper.pid, lambda: False, patience_seconds=0.05)
    assert read_process_state(sleeper.pid) == "S"


async def test_a_worker_that_is_gone_is_not_waited_for(sleeper):
    sleeper.kill()
    await sleeper.wait()
    assert not await stop_between_steps(sleeper.pid, lambda: False, patience_seconds=600)


def test_a_worker_that_is_seen_stopped_twice_is_reported_once_alone_is_not():
    states = {11: "S", 12: "S"}
    detector = SigstopDetector(read_state=states.__getitem__)
    pids = {2: 11, 3: 12}
    assert detector.judge(pids, set()) is None
    states[12] = "T"
    assert detector.judge(pids, set()) is None
    assert detector.judge(pids, {3}) is None
    assert detector.judge(pids, set()) is None
    assert detector.judge(pids, set()).message.startswith("rank 3 is stopped")
    states[12] = "R"
    assert detector.judge(pids, set()) is None


def test_a_new_phase_and_slow_micro_batches_give_more_time(tmp_path):
    watched = Watched(tmp_path)
    assert watched.pass_seconds(20, 0, 1) is None
    assert watched.pass_seconds(55) is None
    watched.watch.enter(WorkerPhase(phase="evaluating"))
    assert watched.pass_seconds(100) is None
    assert watched.pass_seconds(30) is not None


def test_a_rank_that_is_done_owes_no_beat(tmp_path):
    watched = Watched(tmp_path)
    watched.now = 1000
    assert watched.watch.judge({2, 3}, 2) is None


async def test_the_first_and_the_last_progress_always_come_through_and_few_between():
    told: list[int] = []
    gate = ProgressGate(tell=lambda progress: told.append(progress.step))
    for step in range(1, 100):
        gate.offer(Progress.model_construct(step=step))
        await asyncio.sleep(0)
    gate.close()
    assert told == [1, 99]


def test_last_words_fit_into_what_kubernetes_keeps(tmp_path):
    long = FailureReport(failure_class=FailureClass.INTERNAL, message="m" * 9000, traceback_end="t" * 9000)
    write_last_words(tmp_path / "words", long)
    text = (tmp_path / "words").read_bytes()
    assert len(text) <= MAX_BYTES
    assert FailureReport.model_validate_json(text).message.startswith("mmm")


def test_a_missing_setting_is_named():
    with pytest.raises(SettingMissing, match="FINETUNE_CONFIG is not set"):
        read_settings({})


def test_workers_see_no_secret_and_one_thread(tmp_path):
    member = Member(uid="a", folder=tmp_path, config_path=tmp_path, channel=tmp_path, AWS_SECRET_ACCESS_KEY="s", HF_TOKEN="t", LANG="C")
    seen = zygote_environment(read_settings(member.environment), member.environment)
    assert not [name for name in seen if name.startswith(("AWS_", "HF_TOKEN", "FINETUNE_"))]
    assert (seen["LANG"], seen["OPENBLAS_NUM_THREADS"]) == ("C", "1")
