"""The webhook's answers are those of the rules."""

import pytest
from tests.kube.builders import job_object

from finetune_operator.edge import review as review_module
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


STORE = {"secretName": "keys"}
TRACKING = {"reportTo": ["wandb"], "secretName": "keys"}


@pytest.mark.parametrize(
    ("spec", "warned"),
    [
        ({"storage": {**STORE, "endpoint": "http://s3.example.com"}}, "spec.storage.endpoint"),
        ({"storage": {**STORE, "endpoint": "http://8.8.8.8:9000"}}, "spec.storage.endpoint"),
        ({"storage": {**STORE, "endpoint": "https://s3.example.com"}}, None),
        ({"storage": {**STORE, "endpoint": "http://minio.team-a.svc:9000"}}, None),
        ({"storage": {**STORE, "endpoint": "http://minio.team-a.svc.cluster.local"}}, None),
        ({"storage": {**STORE, "endpoint": "http://minio:9000"}}, None),
        ({"storage": {**STORE, "endpoint": "http://10.1.2.3:9000"}}, None),
        ({"storage": {**STORE, "endpoint": "http://[::1]:9000"}}, None),
        ({"storage": {"endpoint": "http://s3.example.com"}}, None),
        ({"tracking": {**TRACKING, "endpoint": "http://wandb.example.com"}}, "spec.tracking.endpoint: WANDB_API_KEY"),
        ({"tracking": {"endpoint": "http://wandb.example.com"}}, None),
    ],
)
def test_credentials_that_leave_the_cluster_in_the_clear_are_warned_of(spec, warned) -> None:
    refusal, warnings = review(job_object(spec=spec), None)
    assert refusal is None
    assert [warning.startswith(warned or "") for warning in warnings] == [True] * (warned is not None), warnings


INVALID = {"storage": {"secretName": "Bad_Secret"}, "resources": {"requests": {"cpu": "lots"}}}


@pytest.mark.parametrize("change", [{"suspend": True}, {"priority": 3}, {"placement": {"timeoutSeconds": 20}}])
def test_what_was_wrong_before_is_no_reason_to_refuse_a_change(change: dict[str, object]) -> None:
    assert review(job_object(spec={**INVALID, **change}), job_object(spec=INVALID)) == (None, ())


def test_a_stored_job_of_another_time_can_be_suspended() -> None:
    old = job_object(spec={"fieldOfAnotherTime": 1, "training": {"epochs": "three"}})
    new = job_object(spec={"fieldOfAnotherTime": 1, "training": {"epochs": "three"}, "suspend": True})
    assert review(new, old) == (None, ())


def test_a_new_fault_is_refused_beside_an_old_one() -> None:
    refusal, _ = review(job_object(spec={**INVALID, "priority": "high"}), job_object(spec=INVALID))
    assert refusal == "spec.priority: got the string 'high', wanted an integer"


def test_an_invalid_job_cannot_change_its_model_either() -> None:
    refusal, _ = review(job_object(spec={**INVALID, "model": {"uri": "hf://other/model"}}), job_object(spec=INVALID))
    assert refusal is not None
    assert refusal.startswith("spec.model:")


@pytest.mark.parametrize("garbage", [None, [], "x", 3, {}, {"spec": []}, {"metadata": []}, {"spec": {"model": float("nan")}}])
def test_garbage_is_answered(garbage: object) -> None:
    refusal, _ = review(garbage, None)
    assert refusal
    for old in ([], {}, {"spec": None}, {"spec": []}, "x", garbage):
        assert isinstance(review(garbage, old), tuple)


def test_deep_objects_are_refused() -> None:
    value: object = "x"
    for _ in range(5_000):
        value = {"a": value}
    refusal, _ = review(job_object(spec={"training": value}), None)
    assert refusal is not None


def test_a_field_of_a_newer_definition_is_no_reason_to_refuse() -> None:
    """The API server knows it, and gives it to every job that leaves it out."""
    assert review(job_object(spec={"training": {"laterKnob": 1}}), None) == (None, ())
    refusal, _ = review(job_object(spec={"training": {"laterKnob": 1}, "resources": {"nodes": {"min": 3, "max": 1}}}), None)
    assert refusal is not None
    assert refusal.startswith("spec.resources.nodes: min 3 is greater than max 1")


def template(text: str) -> dict:
    return job_object(spec={"training": {"chatTemplate": text}})


def test_a_template_that_cannot_run_is_refused_when_the_job_is_made_and_not_when_it_is_changed(monkeypatch) -> None:
    broken = template("{% for m in messages %}{{ m.content | no_such_filter }}{% endfor %}")
    refusal, warnings = review(broken, None)
    assert refusal is not None
    assert refusal.startswith("spec.training.chatTemplate: ")
    assert warnings == ()
    assert review({**broken, "spec": {**broken["spec"], "priority": 3}}, broken)[0] is None


def test_a_template_is_not_waited_for_long_while_another_is_tried(monkeypatch) -> None:
    monkeypatch.setattr(review_module, "REVIEW_WAIT_SECONDS", 0.01)
    with review_module._one_trial:
        assert review(template("{% for m in messages %}{{ m.content | no_such_filter }}{% endfor %}"), None)[0] is None
    assert review_module._one_trial.acquire(blocking=False), "it is free again"
    review_module._one_trial.release()
