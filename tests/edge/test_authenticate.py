"""Whose token is believed: keys of the API server, or its review; a pod that the informer has not shown yet is asked for once."""

import time

import pytest
from prometheus_client import CollectorRegistry
from tests.kube.api_server import ApiServer, drop, refusing
from tests.kube.builders import UID, Strangers, merged, pod_object
from tests.kube.test_tokens import CLAIMS, published, token

from finetune_operator.coordinator.identity import MemberIdentity, TokenRefused
from finetune_operator.decide.facts.observed import PodView
from finetune_operator.edge.authenticate import PodAuthenticator
from finetune_operator.kube import tokens as tokens_module
from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.meters import TOKEN_REFUSALS, Meters
from finetune_operator.kube.tokens import TokenInvalid, TokenVerifier
from finetune_operator.kube.turns import Pace

POD = "/api/v1/namespaces/team-a/pods/support-bot-0a1b-3"
JWKS, REVIEWS = "/openid/v1/jwks", "/apis/authentication.k8s.io/v1/tokenreviews"
USER = {
    "username": "system:serviceaccount:team-a:default",
    "extra": {"authentication.kubernetes.io/pod-name": ["support-bot-0a1b-3"], "authentication.kubernetes.io/pod-uid": ["pod-uid"]},
}


class Bench:
    def __init__(self, api: ApiServer) -> None:
        self.cache: ObjectCache[PodView] = ObjectCache()
        self.strangers, self.listed = Strangers(), True
        verifier = TokenVerifier(api.client, issuer=lambda: CLAIMS["iss"])
        self.authenticate = PodAuthenticator(
            api.client, verifier, self.cache, is_member=lambda *asked: self.listed and asked == EXPECTED, strangers=self.strangers
        )

    async def refusal(self, bearer: str) -> str:
        with pytest.raises(TokenRefused) as refused:
            await self.authenticate(bearer)
        assert not bearer or bearer not in str(refused.value)
        return str(refused.value)


EXPECTED = (("team-a", "support-bot"), UID, "pod-uid")


def fresh(key_id: str = "rsa", **claims) -> str:
    return token(key_id, exp=time.time() + 60, nbf=time.time() - 60, **claims)


@pytest.fixture
def bench(api) -> Bench:
    api.documents[JWKS] = published()
    api.put(POD, merged(pod_object(), {"status": {"podIPs": [{"ip": "10.0.0.7"}]}}))
    return Bench(api)


async def test_a_pod_that_is_not_shown_yet_is_asked_for_once(api, bench) -> None:
    for _ in range(3):
        identity = await bench.authenticate(fresh())
        assert identity == MemberIdentity(member_uid="pod-uid", job_uid=UID, addresses=frozenset({"10.0.0.7"}))
    assert api.log == [("GET", JWKS), ("GET", POD)]


async def test_a_token_that_is_refused_says_why(bench) -> None:
    assert await bench.refusal("x") == "token refused: not a JSON web token"
    assert await bench.refusal(token(exp=1.0)) == "token refused: it is expired"


@pytest.mark.parametrize("answer", [refusing(404, "NotFound", "no"), refusing(500, "InternalError", "no"), drop])
async def test_a_pod_that_cannot_be_found_is_not_known(api, bench, answer) -> None:
    api.script("GET", "/pods/", answer, answer)
    assert await bench.refusal(fresh()) == "pod team-a/support-bot-0a1b-3 is not known"


@pytest.mark.parametrize("metadata", [{"uid": "another"}, {"ownerReferences": None}, {"creationTimestamp": "never"}])
async def test_a_pod_that_is_no_members_is_refused_and_counted(api, bench, metadata) -> None:
    api.put(POD, pod_object(metadata=metadata))
    assert await bench.refusal(fresh()) == "pod team-a/support-bot-0a1b-3 is no member of a job"
    assert bench.strangers.seen == ["not_controlled"]


async def test_a_pod_that_has_ended_or_was_not_asked_for_is_refused(api, bench) -> None:
    bench.listed = False
    assert await bench.refusal(fresh()) == "pod team-a/support-bot-0a1b-3 is no member that its job has asked for"
    api.put(POD, merged(pod_object(), {"metadata": {"uid": "late"}, "status": {"phase": "Failed"}}))
    late = fresh(**{"kubernetes.io": {"pod": {"uid": "late"}}})
    assert await bench.refusal(late) == "pod team-a/support-bot-0a1b-3 has ended"
    assert bench.strangers.seen == ["not_listed", "ended"]


async def test_keys_that_are_rotated_are_read_again(api, bench) -> None:
    everything = published()
    api.documents[JWKS] = {"keys": everything["keys"][1:]}
    moment = [0.0]
    verifier = TokenVerifier(api.client, issuer=lambda: CLAIMS["iss"], clock=lambda: moment[0])
    bench.authenticate._verifier = verifier
    assert (await bench.authenticate(fresh("ec"))).member_uid == "pod-uid"
    api.documents[JWKS] = everything
    assert "unknown key" in await bench.refusal(fresh())
    moment[0] = 11.0
    assert (await bench.authenticate(fresh())).member_uid == "pod-uid"
    assert api.log.count(("GET", JWKS)) == 2


async def test_while_keys_cannot_be_read_the_api_server_reviews(api, bench) -> None:
    api.documents.clear()
    bearer = fresh()
    api.reviews[bearer] = USER
    assert (await bench.authenticate(bearer)).member_uid == "pod-uid"
    assert await bench.refusal(fresh(jti="other")) == "token refused: the API server does not accept it"
    assert await bench.refusal(fresh(iss="https://another.cluster")) == "token refused: the API server does not accept it"


async def test_keys_of_before_stay_good_while_none_can_be_read(api, bench) -> None:
    moment = [0.0]
    bench.authenticate._verifier = TokenVerifier(api.client, clock=lambda: moment[0])
    await bench.authenticate(fresh())
    api.documents.clear()
    moment[0] = 4000.0
    assert (await bench.authenticate(fresh())).member_uid == "pod-uid"
    assert api.log.count(("GET", JWKS)) == 2


@pytest.mark.parametrize(
    "user",
    [
        {**USER, "username": "system:node:team-a:x"},
        {**USER, "username": "alice"},
        {**USER, "username": "system:serviceaccount::default"},
        {**USER, "extra": {"authentication.kubernetes.io/pod-name": ["x"]}},
        {**USER, "extra": {"authentication.kubernetes.io/pod-name": [], "authentication.kubernetes.io/pod-uid": ["u"]}},
        {**USER, "extra": None},
        {},
    ],
)
async def test_a_review_that_names_no_pod_proves_nothing(api, bench, user) -> None:
    api.documents.clear()
    bearer = fresh()
    api.reviews[bearer] = user
    assert await bench.refusal(bearer) == "token refused: the API server does not accept it"


async def test_a_review_for_another_audience_proves_nothing(api, bench, monkeypatch) -> None:
    api.documents.clear()
    bearer = fresh()
    api.reviews[bearer] = USER
    monkeypatch.setattr(api, "_review", lambda asked: {"status": {"authenticated": True, "user": USER, "audiences": ["api"]}})
    assert await bench.refusal(bearer) == "token refused: the API server does not accept it"


@pytest.mark.parametrize("answer", [refusing(403, "Forbidden", "no"), drop])
async def test_without_keys_and_review_nobody_is_believed(api, bench, answer) -> None:
    api.documents.clear()
    api.script("POST", REVIEWS, answer, answer)
    assert await bench.refusal(fresh()) == "token refused: it could be checked neither by key nor by review"


async def test_refusals_are_counted_by_reason(api) -> None:
    api.documents[JWKS] = published()
    registry = CollectorRegistry()
    verifier = TokenVerifier(api.client, meters=Meters(registry))
    for bearer in ("x", token(exp=1.0), fresh("bogus"), fresh(signature=b"x" * 256), fresh("bogus")):
        with pytest.raises(TokenInvalid):
            await verifier.identify(bearer)
    counted = {why: registry.get_sample_value("finetune_operator_tokens_refused_total", {"why": why}) for why in TOKEN_REFUSALS}
    assert counted == {"malformed": 1, "claims": 1, "unknown_key": 2, "signature": 1, "review": 0, "busy": 0}


async def test_a_token_that_was_refused_is_not_reviewed_again_for_a_minute_and_few_are_remembered(api, monkeypatch) -> None:
    monkeypatch.setattr(tokens_module, "_MAX_REFUSED", 2)
    moment = [0.0]
    verifier = TokenVerifier(api.client, clock=lambda: moment[0])
    monkeypatch.setattr(verifier._reviews, "_pace", Pace(rate=1000, burst=1000))
    bearers = [fresh(jti=str(number)) for number in range(3)]

    async def ask(bearer: str) -> int:
        """Reviews so far."""
        with pytest.raises(TokenInvalid):
            await verifier.identify(bearer)
        return api.log.count(("POST", REVIEWS))

    assert [await ask(bearer) for bearer in (*bearers, *reversed(bearers))] == [1, 2, 3, 3, 3, 4]
    moment[0] = 61.0
    assert await ask(bearers[2]) == 5
    api.reviews[bearers[2]] = USER
    moment[0] = 122.0
    assert (await verifier.identify(bearers[2])).uid == "pod-uid"
