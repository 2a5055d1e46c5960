"""The webhook's answers are those of the rules."""

from tests.kube.builders import job_object

from finetune_operator.edge.review import review


def test_a_good_job_is_admitted() -> None:
    assert review(job_object(), None) == (None, ())


def test_a_bad_job_is_refused_with_the_field() -> None:
    refusal, _ = review(job_object(spec={"resources": {"nodes": {"min": 3, "max": 1}}}), None)
    assert refusal is not None
    assert refusal.startswith("spec.resources.nodes: min 3 is greater than max 1")


def test_a_change_that_a_running_job_cannot_follow_is_refused() -> None:
    refusal, _ = review(job_object(spec={"model": {"uri": "hf://other/model"}}), job_object())
    assert refusal is not None
    assert refusal.startswith("spec.model:")


def test_a_doubtful_job_is_admitted_with_a_warning() -> None:
    refusal, warnings = review(job_object(spec={"training": {"globalBatchSize": 1}, "resources": {"nodes": {"max": 2}}}), None)
    assert refusal is None
    assert "idle" in warnings[0]
