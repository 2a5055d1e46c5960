"""Counters of the borders: names from a fixed set, and series that are there before anything happens."""

import pytest
from prometheus_client import CollectorRegistry

from finetune_operator.kube.meters import TOKEN_REFUSALS, WATCH_ENDS, Meters, resource_of
from finetune_operator.kube.turns import Lane


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces/a/pods/x", "pods"),
        ("/api/v1/namespaces/a/pods/x/eviction", "other"),
        ("/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x", "finetunejobs"),
        ("/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x/status", "finetunejobs/status"),
        ("/openid/v1/jwks", "jwks"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
        ("/api/v1/namespaces/a/nodes", "other"),
        ("/version", "other"),
    ],
)
def test_a_path_is_counted_under_the_kind_of_thing_that_it_names(path, resource) -> None:
    assert resource_of(path) == resource


def test_series_are_there_before_anything_happens() -> None:
    registry = CollectorRegistry()
    meters = Meters(registry)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"finetune_operator_{name}", labels)

    assert {
        value("api_request_duration_seconds_count", verb=verb) for verb in ("GET", "LIST", "WATCH", "POST", "PATCH", "PUT", "DELETE")
    } == {0}
    assert {value("tokens_refused_total", why=why) for why in TOKEN_REFUSALS} == {0}
    assert {value("watches_ended_total", resource="pods", why=why) for why in WATCH_ENDS} == {0}
    assert {value("webhook_reviews_total", result=result) for result in ("allowed", "refused")} == {0}
    assert value("events_dropped_total") == 0
    meters.record_request("BREW", "/api/v1/pods", None, 0.1)
    assert value("api_requests_total", verb="other", resource="pods", code="none") == 1


def test_writes_that_wait_are_shown_by_lane() -> None:
    registry = CollectorRegistry()
    Meters(registry).show_writes_waiting(lambda lane: {Lane.INTENT: 3, Lane.REPORT: 2, Lane.EVENT: 1}[lane])
    shown = [registry.get_sample_value("finetune_operator_writes_waiting", {"lane": lane.value}) for lane in Lane]
    assert shown == [3, 2, 1]


def test_reviews_are_counted_by_their_answer() -> None:
    registry = CollectorRegistry()
    answers = iter([(None, ("w",)), ("no", ()), ("no", ())])
    review = Meters(registry).counted(lambda body, old: next(answers))
    assert [review({}, None) for _ in range(3)] == [(None, ("w",)), ("no", ()), ("no", ())]
    counted = [registry.get_sample_value("finetune_operator_webhook_reviews_total", {"result": one}) for one in ("allowed", "refused")]
    assert counted == [1, 2]
