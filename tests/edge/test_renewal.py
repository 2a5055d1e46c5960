"""A certificate that cannot be written is no reason to end: the one before stays whole and is served on."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.edge.test_settings import NEEDED

from finetune_operator.edge.caretaker import Certificates
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.certificates import rotate
from finetune_operator.settings import read_settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    moment = NOW

    def now(self) -> datetime:
        return self.moment


def test_a_full_disk_leaves_the_certificate_before_in_place(tmp_path, monkeypatch) -> None:
    authority = rotate(None, NOW)
    serving = ServingCertificate(tmp_path, ("channel.ns.svc",))
    assert serving.renew(authority, NOW)
    before = (serving.certificate_file.read_text(), serving.key_file.read_text())

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("finetune_operator.edge.tls.os.open", full)
        with pytest.raises(OSError, match="No space"):
            serving.renew(authority, NOW + timedelta(days=300))
    assert (serving.certificate_file.read_text(), serving.key_file.read_text()) == before
    assert serving.is_made
    assert serving.renew(authority, NOW + timedelta(days=300))
    assert serving.certificate_file.read_text() != before[0]
    assert serving.key_file.stat().st_mode & 0o077 == 0


async def test_a_renewal_that_fails_ends_nothing_and_keeps_the_authority(api, tmp_path, monkeypatch) -> None:
    clock, serving = Clock(), ServingCertificate(tmp_path, ("channel.ns.svc",))
    certificates = Certificates(read_settings(NEEDED), api.client, serving, clock)
    await certificates.refresh()
    clock.moment += timedelta(days=300)
    monkeypatch.setattr(serving, "renew", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    await certificates.refresh()
    assert certificates.bundle
