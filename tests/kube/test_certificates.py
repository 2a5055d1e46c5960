"""The authority: members that hold the bundle trust whatever is signed, before, during and after a rotation."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.certificates import Authority, make_serving, parse_authority, render_data, rotate, service_names

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
