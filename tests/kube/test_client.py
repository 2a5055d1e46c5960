"""The client over HTTP: what it tries again, what it raises, and in whose words."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.kube.api_server import TOKEN, drop, hang, refusing, saying
from tests.kube.builders import pod_object

from finetune_operator.kube import client as client_module
from finetune_operator.kube.client import ApiClient, ApiError, Overloaded, Unreachable
from finetune_operator.kube.credentials import Credentials
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.turns import Lane, Pace, Turns

PODS = "/api/v1/namespaces/team-a/pods"
ONE = f"{PODS}/one"


class Naps:
    """Stands for the waits of the client: they are over at once, and remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    naps = Naps()
    parts = {name: getattr(asyncio, name) for name in ("timeout", "Lock")}
    monkeypatch.setattr(client_module, "asyncio", SimpleNamespace(sleep=naps.sleep, **parts))
    return naps.seconds


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "3", 3.0),
        (429, "0", 0.0),
        (429, "86400", 10.0),
        (429, None, 1.0),
        (429, "Sun, 29 Nov 2026 21:45:34 GMT", 1.0),
        (429, "-5", 1.0),
        (429, "\u00b2", 1.0),
        (429, "9" * 400, 1.0),
        (503, "2", 2.0),
    ],
)
async def test_a_busy_server_is_asked_again_after_the_time_that_it_names(api, naps, status, header, seconds) -> None:
    api.put(ONE, pod_object())
    api.script("GET", ONE, refusing(status, "TooManyRequests", "slow down", retry_after=header))
    assert (await api.client.request("GET", ONE))["kind"] == "Pod"
    assert naps == [seconds]


async def test_a_server_that_stays_busy_is_asked_four_times_and_blames_nobody(api, naps) -> None:
    api.script("GET", ONE, refusing(429, "TooManyRequests", "slow down", retry_after="1"), always=True)
    with pytest.raises(Overloaded, match="429 TooManyRequests: slow down"):
        await api.client.request("GET", ONE)
    assert (len(api.log), naps) == (4, [1.0] * 3)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_broken_server_is_not_asked_again(api, naps, status) -> None:
    api.script("GET", ONE, refusing(status, "InternalError", "etcd is away"))
    with pytest.raises(Overloaded, match=f"{status} InternalError: etcd is away"):
        await api.client.request("GET", ONE)
    assert (len(api.log), naps) == (1, [])


async def test_a_refusal_keeps_reason_words_and_fields_and_is_no_overload(api) -> None:
    words = 'pods "one" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4'
    api.script("POST", PODS, refusing(403, "Forbidden", words, fields=("spec.x", "status.y")))
    with pytest.raises(ApiError) as caught:
        await api.client.request("POST", PODS, body=pod_object())
    error = caught.value
    assert (error.status, error.reason, error.message, error.fields) == (403, "Forbidden", words, ("spec.x", "status.y"))
    assert not isinstance(error, Overloaded)


@pytest.mark.parametrize(
    "details",
    [None, [], "x", {}, {"causes": "x"}, {"causes": [None, 3, {}, {"field": 7}]}, {"causes": [{"field": "f"}] * 1000}],
)
async def test_details_of_any_shape_are_read(api, details: Any) -> None:
    refusal = f'{{"kind": "Status", "message": "no", "details": {client_module.json.dumps(details)}}}'
    api.script("GET", ONE, saying(refusal, status=422))
    with pytest.raises(ApiError, match="422 Unprocessable Entity: no") as caught:
        await api.client.request("GET", ONE)
    assert len(caught.value.fields) in {0, 32}


@pytest.mark.parametrize(
    ("text", "words"),
    [("<html>Bad Gateway</html>", "<html>Bad Gateway</html>"), ("[1, 2]", r"\[1, 2\]"), ("[" * 5000, r"\[\[")],
)
async def test_words_of_a_proxy_are_told(api, text, words) -> None:
    api.script("GET", ONE, saying(text, status=502, content_type="text/html"))
    with pytest.raises(Overloaded, match=f"502 Bad Gateway: {words}") as caught:
        await api.client.request("GET", ONE)
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize("text", ["", "null", "[]", '{"items": []}', '{"items": {"a": 1}, "metadata": {"resourceVersion": "1"}}', "<html>"])
async def test_an_answer_that_is_no_list_is_no_empty_cluster(api, text) -> None:
    api.script("GET", "limit=", saying(text))
    with pytest.raises(Unreachable, match="the answer is no list"):
        await api.client.list_all(PODS, lambda item: item)


async def test_a_connection_that_breaks_is_no_answer(api) -> None:
    api.script("GET", ONE, drop, drop)
    with pytest.raises(Unreachable, match=f"GET {ONE}"):
        await api.client.request("GET", ONE)


async def test_a_request_without_an_answer_ends_in_time(api) -> None:
    api.script("GET", ONE, hang)
    with pytest.raises(Unreachable, match="no answer in time"):
        await api.client.request("GET", ONE, timeout_seconds=0.05)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    client = ApiClient(Credentials(server="http://127.0.0.1:1", ssl_context=None))
    with pytest.raises(Unreachable, match="Cannot connect"):
        await client.request("GET", ONE)
    await client.close()


async def test_a_number_that_json_does_not_know_is_refused_before_it_is_sent(api) -> None:
    with pytest.raises(ApiError, match="400 BadRequest: the object holds a number that is not finite"):
        await api.client.request("POST", PODS, body={"spec": {"loss": float("nan")}})
    assert api.log == []


async def test_a_token_is_read_again_when_it_was_refused_and_every_minute(api, tmp_path, monkeypatch) -> None:
    moment = [100.0]
    monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: moment[0]))
    file = tmp_path / "token"
    file.write_text("first\n")
    client = ApiClient(Credentials(server=api.credentials.server, ssl_context=None, token_file=file))
    api.put(ONE, pod_object())

    async def bearer() -> str:
        await client.request("GET", ONE)
        return api.requests[-1].headers["Authorization"].removeprefix("Bearer ")

    assert await bearer() == "first"
    file.write_text("second\n")
    assert await bearer() == "first", "no file is read for each request"
    moment[0] += 61
    assert await bearer() == "second"
    file.write_text("third\n")
    api.tokens = {"third"}
    with pytest.raises(ApiError, match="401"):
        await bearer()
    assert await bearer() == "third"
    await client.close()


async def test_who_has_no_token_sends_none(api) -> None:
    client = ApiClient(Credentials(server=api.credentials.server, ssl_context=None))
    await client.list_all(PODS, lambda item: item)
    assert "Authorization" not in api.requests[0].headers
    assert api.requests[0].headers["User-Agent"] == "finetune-operator"
    await client.close()
    api.tokens = {TOKEN}
    assert await api.client.list_all(PODS, lambda item: item) == ([], "1000")


async def test_writes_wait_for_their_turn_and_reads_and_reviews_do_not(api) -> None:
    api.client._turns = Turns(Pace(rate=0.001, burst=0))
    api.put(ONE, pod_object())
    writes = [asyncio.create_task(api.client.request("DELETE", ONE)) for _ in range(3)]
    assert (await api.client.request("GET", ONE))["kind"] == "Pod"
    review = {"spec": {"token": "t", "audiences": []}}
    assert (await api.client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=review))["kind"] == "TokenReview"
    assert api.client.num_waiting(Lane.INTENT) == 3
    assert [verb for verb, _ in api.log] == ["GET", "POST"]
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)


async def test_requests_and_ends_of_watches_are_counted_by_kind_and_code(api) -> None:
    registry = CollectorRegistry()
    client = ApiClient(api.credentials, meters=Meters(registry))
    api.put(ONE, pod_object())
    api.script("GET", "limit=", refusing(403, "Forbidden", "no"))
    api.script("GET", "/secrets", drop, drop)
    api.script("GET", "watch", refusing(410, "Expired", "old"), refusing(403, "Forbidden", "no"), drop, drop)
    await client.request("GET", ONE)
    for path in (PODS, "/api/v1/namespaces/a/secrets"):
        with pytest.raises((ApiError, Unreachable)):
            await client.list_all(path, lambda item: item)
    for _ in range(3):
        with pytest.raises((ApiError, Unreachable)):
            await anext(client.watch(PODS, {}))
    assert [event async for event in client.watch(PODS, {"resourceVersion": "1001"}, server_seconds=0)][-1][0] == "BOOKMARK"
    await client.close()

    def counted(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"finetune_operator_{name}", labels)

    assert counted("api_requests_total", verb="GET", resource="pods", code="200") == 1
    assert counted("api_requests_total", verb="LIST", resource="pods", code="403") == 1
    assert counted("api_requests_total", verb="LIST", resource="secrets", code="none") == 1
    assert counted("api_request_duration_seconds_count", verb="LIST") == 2
    ends = {why: counted("watches_ended_total", resource="pods", why=why) for why in ("closed", "expired", "refused", "silent")}
    assert ends == {"closed": 1, "expired": 1, "refused": 1, "silent": 1}
