"""Whose word about the adapter ends a job, and whose does not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.observed import a_fresh_session, a_job, a_pod, a_session, observed, over_status, some_progress, training_status
from tests.builders.texts import texts

from finetune_contract.last_words import Finished
from finetune_contract.messages import MemberPhase
from finetune_contract.reports import Output
from finetune_operator.api.status import MemberEntry
from finetune_operator.decide.chain import decide
from finetune_operator.decide.facts.observed import PodPhase

OUTPUT = Output(uri="s3://out/adapter", sha256="a" * 64, num_bytes=1000, step=100)
DONE = {"phase": MemberPhase.FINISHED, "output": OUTPUT}
ENDED = {"phase": PodPhase.SUCCEEDED, "exit_code": 0}
PUBLISHED = {**ENDED, "finished": Finished(formation=1, output=OUTPUT)}
KILLED = {**PUBLISHED, "phase": PodPhase.FAILED, "exit_code": 137, "is_oom_killed": True}
SPARE = training_status(members=(*training_status().members, MemberEntry(serial=3, uid="pod-3", is_spare=True)), last_serial=3)
REPLACED = over_status(members=(MemberEntry(serial=2, uid="pod-2"), MemberEntry(serial=3, uid="pod-3")), last_serial=3)


def claims(**changes) -> dict:
    return {"phase": MemberPhase.FINISHED, "output": OUTPUT.model_copy(update=changes)}


def two(first=None, second=None, **changes):
    return observed(sessions=(a_session(1, **(first or {})), a_session(2, **(second or {}))), **changes)


@pytest.mark.parametrize(
    "seen",
    [
        two(first=DONE),
        observed(sessions=(), pods=(a_pod(1, **PUBLISHED), a_pod(2, **ENDED))),
        observed(sessions=(), pods=(a_pod(1, **KILLED),)),
        observed(
            job=a_job(status=REPLACED),
            pods=(a_pod(2), a_pod(3)),
            sessions=(a_session(2), a_fresh_session(3, **DONE, inputs=None)),
        ),
    ],
    ids=[
        "node rank 0",
        "node rank 0 that ended unwatched",
        "node rank 0 that was killed after it had published",
        "a replacement that finds the adapter of the formation that is over",
    ],
)
def test_the_adapter_of_the_newest_formation_ends_the_job_and_makes_no_pod(seen) -> None:
    decision = decide(seen)
    assert decision.status.is_true("Complete")
    assert decision.create == ()
    assert decision.status.output is not None
    assert decision.status.output.sha256 == "a" * 64


def test_what_ended_unwatched_tells_how_far_it_came() -> None:
    last = some_progress(step=100, loss=0.25)
    words = Finished(formation=1, output=OUTPUT, progress=last)
    status = decide(observed(sessions=(), pods=(a_pod(1, **ENDED, finished=words), a_pod(2, **ENDED)))).status
    assert (status.progress.step, status.progress.loss) == (100, 0.25)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (two(second=DONE), "bot-ab12-2 says that it published the adapter; only node rank 0 of formation 1 publishes"),
        (two(first={**DONE, "formation": 0}), "it reports for formation 0, but the newest is formation 1"),
        (
            observed(job=a_job(status=SPARE), pods=(a_pod(1), a_pod(2), a_pod(3)), sessions=(a_session(1), a_fresh_session(3, **DONE))),
            "it has no place in the gang",
        ),
        (observed(pods=(a_pod(1), a_pod(2), a_pod(7, **PUBLISHED))), "bot-ab12-7 says that it published the adapter; it has no place"),
        (two(first=claims(uri="s3://evil/trojan")), "the place in its report is not spec.output.uri"),
        (two(first=claims(sha256="A" * 64)), "its digest is not a SHA-256 of 64 hexadecimal digits"),
        (two(first=claims(sha256="a" * 64 + "\n")), "its digest is not a SHA-256 of 64 hexadecimal digits"),
        (two(first=claims(num_bytes=2**63)), "its size of 9.22e+18 bytes is impossible"),
        (two(first=claims(num_bytes=0)), "its size of 0 bytes is impossible"),
        (two(first=claims(step=-1)), "its step -1 is impossible"),
        (
            observed(
                job=a_job(status=REPLACED),
                pods=(a_pod(2), a_pod(3)),
                sessions=(a_session(2), a_fresh_session(3, **claims(already_present=True))),
            ),
            "it found the adapter of another job, but spec.output.ifExists is Fail",
        ),
        (
            observed(job=a_job(status=REPLACED), pods=(a_pod(2), a_pod(3)), sessions=(a_session(2, **DONE), a_fresh_session(3))),
            "only node rank 0 of formation 1 publishes",
        ),
        (
            observed(job=a_job(status=REPLACED), pods=(a_pod(2), a_pod(3)), sessions=(a_fresh_session(2, **DONE), a_fresh_session(3))),
            "it reports for formation 0, but the newest is formation 1",
        ),
    ],
    ids=[
        *("another rank", "older formation", "spare", "stray", "place", "capital digest", "long digest", "size", "nothing", "step"),
        *("another job's", "another rank of a formation that is over", "the same as if it had never trained"),
    ],
)
def test_a_forged_output_ends_nothing_and_is_told(seen, why) -> None:
    decision = decide(seen)
    assert not decision.status.is_ended
    assert decision.status.output is None
    (told,) = (event for event in decision.events if event.reason == "OutputRefused")
    assert told.type == "Warning"
    assert why in told.message


NUMBERS = st.integers() | st.sampled_from([0, 1, -1, 10**400, 2**53])
OUTPUTS = st.builds(Output.model_construct, uri=texts(40) | st.just(OUTPUT.uri), sha256=texts(70), num_bytes=NUMBERS, step=NUMBERS)


@settings(max_examples=60)
@given(output=OUTPUTS, formation=st.integers(0, 3), serial=st.integers(1, 9))
def test_whatever_is_claimed_without_the_digest_of_an_adapter_completes_nothing(output, formation, serial) -> None:
    words = Finished.model_construct(formation=formation, output=output)
    pods = {pod.serial: pod for pod in (a_pod(1), a_pod(2), a_pod(serial, **{**ENDED, "finished": words}))}
    decision = decide(observed(pods=tuple(pods.values()), sessions=()))
    assert not decision.status.is_ended


def test_a_member_that_finished_as_the_next_formation_was_ordered_is_replaced_by_one_that_finds_its_adapter() -> None:
    entry = training_status().formation.model_copy(update={"number": 2, "first_step_at": None})
    seen = two(first=DONE, job=a_job(status=training_status(formation=entry, last_formation=2)))
    decision = decide(seen)
    assert decision.status.formation.is_over
    assert 1 not in [member.serial for member in decision.status.members]
    assert decision.create == (3,)
    assert not decide(replace(seen, job=seen.job.model_copy(update={"status": decision.status}))).status.is_ended
