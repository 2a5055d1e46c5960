"""What the witnesses beside status conclude from what they saw. Needs no cluster."""

import json
import os
from pathlib import Path

import pytest

from e2e.goodput import lost_steps, pace, plan
from e2e.history import History
from e2e.steps import StepWatch, newest_in, read_newest
from finetune_contract.slots import SlotFile
from finetune_contract.state import InputDigests, NumericsKey, RunRecord, StateId

INPUTS = InputDigests(model="0", dataset="0")
NUMERICS = NumericsKey(torch_version="2", device="cpu", threads=1, attention="sdpa", pack_tokens=1)


def a_watch(*seen: tuple[int, int, float]) -> StepWatch:
    """(formation, step, at) of snapshots."""
    return StepWatch("job", seen={(formation, step): at for formation, step, at in seen})


DISTURBED = a_watch((1, 1, 1.0), (1, 2, 2.0), (1, 3, 3.0), (2, 2, 6.0), (2, 3, 7.0), (2, 4, 8.0))  # formation 2 resumes from step 2


def test_what_a_formation_resumes_from_is_no_step() -> None:
    first = DISTURBED.first_after(1)
    assert first is not None
    assert (first.step, first.at) == (3, 7.0)
    assert DISTURBED.lost_steps(2) == 1
    assert DISTURBED.longest_pause(since=2.5) == 4.0
    assert DISTURBED.longest_pause(since=7.5) == 1.0


def test_a_step_that_is_computed_again_is_lost_and_counts_once() -> None:
    assert pace(DISTURBED, since=0.5, until=8.5) == 0.5, "steps 1 to 4 in 8 s"
    assert pace(DISTURBED, since=3.5, until=7.5) == 0.0
    assert lost_steps(DISTURBED, since=0.0, until=10.0) == 1, "step 3 of formation 1"


def test_a_plan_has_the_promised_shares_and_is_the_same_for_the_same_seed() -> None:
    kinds = [fault.kind for fault in plan(seed=3, minutes=20)]
    assert [kinds.count(kind) for kind in ("worker", "deleted", "forced", "cut")] == [10, 5, 3, 2]
    assert plan(seed=3, minutes=20) == plan(seed=3, minutes=20)
    assert plan(seed=3, minutes=20) != plan(seed=4, minutes=20)


def test_snapshots_are_found_among_the_open_files_of_a_process(tmp_path: Path) -> None:
    file = (tmp_path / "slots").open("w+b")
    (tmp_path / "slots").unlink()
    assert read_newest(os.getpid()) is None
    slots = SlotFile(file.fileno())
    slots.reserve(12)
    record = RunRecord(
        step=7,
        total_steps=9,
        rows_consumed=0,
        tokens_total=0,
        sample_digest="",
        num_parameters=1,
        config_digest="",
        inputs=INPUTS,
        numerics=NUMERICS,
    )
    slots.write(StateId(formation=2, step=7), record, bytes(12))
    found = read_newest(os.getpid())
    assert found is not None
    assert found[1] == newest_in(found[0]) == StateId(formation=2, step=7)
    file.close()


def test_two_pods_for_one_place_and_two_crews_with_one_number_are_seen(tmp_path: Path) -> None:
    history = History(jobs=tmp_path / "jobs", pods=tmp_path / "pods")
    history.jobs.write_text("".join(json.dumps(a_job(serials), indent=1) for serials in ([1, 2], [1, 2])))
    history.pods.write_text("\n".join(json.dumps(a_pod(uid)) for uid in ("a", "a")) + '\n{"half')
    history.assert_one_of_each()
    history.pods.write_text("\n".join(json.dumps(a_pod(uid)) for uid in ("a", "b")))
    with pytest.raises(AssertionError, match="more than one pod"):
        history.assert_one_of_each()
    history.pods.write_text("")
    history.jobs.write_text("".join(json.dumps(a_job(serials)) for serials in ([1, 2], [1, 3])))
    with pytest.raises(AssertionError, match="more than one crew"):
        history.assert_one_of_each()


def a_job(serials: list[int]) -> dict[str, object]:
    return {"metadata": {"uid": "j"}, "status": {"formation": {"number": 1, "serials": serials}}}


def a_pod(uid: str) -> dict[str, object]:
    return {"metadata": {"uid": uid, "labels": {"finetune.dev/serial": "1", "finetune.dev/job-uid": "j"}}}
