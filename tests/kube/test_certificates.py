"""The authority: members that hold the bundle trust whatever is signed, before, during and after a rotation."""

import asyncio
import base64
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from cryptography import x509
from tests.kube.api_server import refusing

from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.certificates import (
    Authority,
    ensure_authority,
    make_serving,
    parse_authority,
    publish_bundle,
    render_data,
    rotate,
    service_names,
)
from finetune_operator.kube.client import ApiError
from finetune_operator.kube.endpoints import publish_leader

NOW = datetime.now(UTC)  # ssl checks against the real clock
NAMES = service_names("finetune-channel", "ops")


def lived(authority: Authority, days_left: int):
    """The moment at which the current authority has so many days left."""
    return authority.current.not_after - timedelta(days=days_left)


def trusts(bundle: str, authority: Authority, tmp_path) -> bool:
    """A TLS handshake over memory, with the name that members use."""
    serving = ServingCertificate(tmp_path, NAMES)
    serving.renew(authority, NOW)
    client_context = ssl.create_default_context(cadata=bundle)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.ssl_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=NAMES[0])
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


def test_a_member_with_the_bundle_trusts_the_channel(tmp_path) -> None:
    authority = rotate(None, NOW)
    assert trusts(authority.bundle, authority, tmp_path)
    assert not trusts(rotate(None, NOW).bundle, authority, tmp_path)


def test_the_authority_may_sign_certificates_and_lists_of_them_and_nothing_else() -> None:
    certificate = x509.load_pem_x509_certificate(rotate(None, NOW).current.certificate.encode())
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    allowed = {name.lstrip("_") for name, value in vars(usage.value).items() if value}
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (allowed, usage.critical) == ({"key_cert_sign", "crl_sign"}, True)
    assert (constraints.value.ca, constraints.value.path_length, constraints.critical) == (True, 0, True)
    assert certificate.not_valid_before_utc < NOW, "clocks of members may be behind"
    serving = x509.load_pem_x509_certificate(make_serving(rotate(None, NOW).current, NAMES, NOW).certificate.encode())
    assert not serving.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_serving_certificate_ends_with_its_authority_and_never_on_the_day_it_was_made() -> None:
    first = rotate(None, NOW)
    for days_left, days in ((100, 100), (0.5, 1)):
        now = first.current.not_after - timedelta(days=days_left)
        certificate = x509.load_pem_x509_certificate(make_serving(first.current, NAMES, now).certificate.encode())
        assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == days


def test_nothing_is_done_while_nothing_is_due() -> None:
    authority = rotate(None, NOW)
    assert rotate(authority, NOW + timedelta(days=365)) == authority


def test_a_rotation_never_cuts_off_a_member_that_holds_the_bundle_before(tmp_path) -> None:
    first = rotate(None, NOW - timedelta(days=3650 - 360))
    prepared = rotate(first, NOW)
    assert prepared.current == first.current
    assert prepared.following is not None
    promoted = rotate(prepared, lived(first, 330))
    assert promoted.current == prepared.following
    assert trusts(prepared.bundle, promoted, tmp_path)
    assert first.current.certificate in promoted.bundle
    assert rotate(promoted, lived(first, 330)) == promoted


def test_an_ended_authority_is_made_anew() -> None:
    first = rotate(None, NOW)
    assert rotate(first, lived(first, 0)).current != first.current


@pytest.mark.parametrize("days_left", [3000, 360, 330])
def test_the_secret_keeps_the_whole_authority(days_left) -> None:
    first = rotate(None, NOW)
    authority = rotate(rotate(first, lived(first, 360)), lived(first, 330)) if days_left == 330 else rotate(first, lived(first, days_left))
    assert parse_authority({"data": render_data(authority)}) == authority


def test_an_empty_secret_holds_no_authority() -> None:
    assert parse_authority({"metadata": {}}) is None


def test_a_serving_certificate_lasts_a_year_and_names_every_way_to_call_the_service() -> None:
    certificate = x509.load_pem_x509_certificate(make_serving(rotate(None, NOW).current, NAMES, NOW).certificate.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert set(names) == {"finetune-channel", "finetune-channel.ops", "finetune-channel.ops.svc", "finetune-channel.ops.svc.cluster.local"}
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=365)


def test_a_serving_certificate_is_renewed_before_its_end_and_after_a_rotation(tmp_path) -> None:
    serving, authority = ServingCertificate(tmp_path, NAMES), rotate(None, NOW)
    assert serving.renew(authority, NOW)
    assert not serving.renew(authority, NOW + timedelta(days=100))
    assert serving.renew(authority, NOW + timedelta(days=300))
    assert serving.renew(rotate(None, NOW), NOW + timedelta(days=300))
    assert serving.key_file.stat().st_mode & 0o077 == 0


SECRETS = "/api/v1/namespaces/ops/secrets"
SECRET = f"{SECRETS}/ca"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


async def test_the_authority_is_made_once_and_then_read(api) -> None:
    made = await ensure_authority(api.client, "ops", "ca", NOW)
    assert await ensure_authority(api.client, "ops", "ca", NOW) == made
    assert parse_authority(api.objects[SECRET]) == made
    assert api.objects[SECRET]["type"] == "Opaque"
    assert [verb for verb, _ in api.log] == ["GET", "POST", "GET"]


async def test_of_several_replicas_that_make_it_at_once_one_wins_and_all_use_its_result(api) -> None:
    made = await asyncio.gather(*(ensure_authority(api.client, "ops", "ca", NOW) for _ in range(5)))
    assert {one.bundle for one in made} == {parse_authority(api.objects[SECRET]).bundle}


async def test_of_several_replicas_that_rotate_it_at_once_one_wins_and_the_rest_of_the_secret_stays(api) -> None:
    first = rotate(None, NOW - timedelta(days=3650 - 360))
    api.put(SECRET, {"metadata": {"labels": {"kept": "yes"}}, "type": "Opaque", "data": render_data(first)})
    made = await asyncio.gather(*(ensure_authority(api.client, "ops", "ca", NOW) for _ in range(5)))
    stored = parse_authority(api.objects[SECRET])
    assert {one.bundle for one in made} == {stored.bundle}
    assert (stored.current, stored.following is None) == (first.current, False)
    assert api.objects[SECRET]["metadata"]["labels"] == {"kept": "yes"}


@pytest.mark.parametrize("data", [None, {}, {"ca.crt": "eA=="}, {"ca.crt": "\u00e9"}, "x"])
async def test_a_secret_without_an_authority_gets_one(api, data) -> None:
    api.put(SECRET, {"metadata": {}, "data": data})
    assert await ensure_authority(api.client, "ops", "ca", NOW) == parse_authority(api.objects[SECRET])


def test_a_key_that_does_not_belong_to_its_certificate_makes_no_authority() -> None:
    one, two = rotate(None, NOW), rotate(None, NOW)
    mixed = render_data(one) | {"ca.key": render_data(two)["ca.key"]}
    assert parse_authority({"data": mixed}) is None
    spoilt = render_data(one) | {"next.crt": render_data(one)["ca.crt"], "next.key": render_data(two)["ca.key"], "retired.crt": "eA=="}
    assert parse_authority({"data": spoilt}) == one


async def test_a_secret_that_cannot_be_read_or_written_is_an_error_in_the_servers_words(api) -> None:
    for verb in ("GET", "POST"):
        api.script(verb, "/secrets", refusing(403, "Forbidden", "secrets is forbidden"))
        with pytest.raises(ApiError, match="403 Forbidden: secrets is forbidden"):
            await ensure_authority(api.client, "ops", "ca", NOW)


async def test_a_secret_that_always_changes_is_given_up(api) -> None:
    api.script("POST", "/secrets", refusing(409, "AlreadyExists", "exists"), always=True)
    with pytest.raises(ApiError, match="409"):
        await ensure_authority(api.client, "ops", "ca", NOW)
    assert [verb for verb, _ in api.log] == ["GET", "POST"] * 5


async def test_the_bundle_goes_into_the_webhooks_that_lack_it_and_nothing_else_is_touched(api) -> None:
    fresh = base64.b64encode(b"PEM").decode()
    rules = [{"operations": ["CREATE"]}]
    hooks = [
        {"name": "stale", "rules": rules, "clientConfig": {"caBundle": "b2xk", "service": {"name": "finetune-webhook"}}},
        {"name": "bare", "clientConfig": {}},
        {"name": "fresh", "clientConfig": {"caBundle": fresh}},
    ]
    api.put(f"{HOOKS}/ours", {"webhooks": hooks})
    await publish_bundle(api.client, "ours", "PEM")
    stored = api.objects[f"{HOOKS}/ours"]["webhooks"]
    assert [hook["clientConfig"]["caBundle"] for hook in stored] == [fresh] * 3
    assert (stored[0]["rules"], stored[0]["clientConfig"]["service"]) == (rules, {"name": "finetune-webhook"})
    await publish_bundle(api.client, "ours", "PEM")
    assert [verb for verb, _ in api.log] == ["GET", "PATCH", "GET"]


async def test_a_bundle_is_not_written_over_what_somebody_else_wrote(api) -> None:
    api.put(f"{HOOKS}/ours", {"webhooks": [{"name": "a", "clientConfig": {}}]})
    stale = api.objects[f"{HOOKS}/ours"]

    async def read_before(request: web.Request) -> web.Response:
        api.put(f"{HOOKS}/ours", stale | {"webhooks": [{"name": "a", "clientConfig": {"url": "https://other"}}]})
        return web.json_response(stale)

    api.script("GET", "/ours", read_before)
    with pytest.raises(ApiError, match="409"):
        await publish_bundle(api.client, "ours", "PEM")


async def test_without_a_webhook_it_is_said(api) -> None:
    with pytest.raises(ApiError, match="404"):
        await publish_bundle(api.client, "ours", "PEM")


SLICES = "/apis/discovery.k8s.io/v1/namespaces/ops/endpointslices"


@pytest.mark.parametrize(("address", "family"), [("10.0.0.1", "IPv4"), ("fd00::1", "IPv6")])
async def test_the_channels_service_is_pointed_at_the_leader_and_away_from_it(api, address, family) -> None:
    await publish_leader(api.client, "ops", "channel", address, 8443)
    await publish_leader(api.client, "ops", "channel", address, 8443)
    stored = api.objects[f"{SLICES}/channel"]
    assert (stored["addressType"], stored["ports"][0]["port"]) == (family, 8443)
    assert stored["endpoints"] == [{"addresses": [address], "conditions": {"ready": True}}]
    assert stored["metadata"]["labels"]["kubernetes.io/service-name"] == "channel"
    assert [verb for verb, _ in api.log] == ["PATCH", "POST", "PATCH"]
    await publish_leader(api.client, "ops", "channel", None, 8443)
    assert api.objects[f"{SLICES}/channel"]["endpoints"] == []


async def test_a_refusal_to_point_the_service_is_raised(api) -> None:
    api.script("PATCH", SLICES, refusing(403, "Forbidden", "no"))
    with pytest.raises(ApiError, match="403"):
        await publish_leader(api.client, "ops", "channel", None, 8443)
