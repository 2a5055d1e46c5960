"""Every store keeps the same promises, and says no in the user's words."""

import pytest
from tests.agent.object_stores import an_error, an_s3_store, serving, write_credentials

from finetune_agent.stores import s3_store
from finetune_agent.stores.object_store import FolderStore, ObjectMissing, PutResult, StoreRefused, StoreUnavailable


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path, s3_endpoint, s3_bucket):
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return an_s3_store(s3_endpoint, write_credentials(tmp_path / "keys"), bucket=s3_bucket, prefix="some/prefix")


def test_what_was_put_is_read_listed_and_described(store):
    store.put("uid/commit/b.json", b"two")
    store.put("uid/commit/a.json", b"one")
    store.put("uid/state/a.bin", b"state")
    assert store.get("uid/commit/b.json") == b"two"
    assert [info.key for info in store.list("uid/commit/")] == ["uid/commit/a.json", "uid/commit/b.json"]
    assert store.describe("uid/state/a.bin").num_bytes == 5


def test_a_conditional_put_has_one_winner_and_leaves_its_bytes(store):
    assert store.put("k", b"first", if_absent=True) is PutResult.STORED
    assert store.put("k", b"second", if_absent=True) is PutResult.ALREADY_THERE
    assert store.get("k") == b"first"


def test_what_is_not_there_is_missing_and_its_deletion_harmless(store):
    store.delete("never")
    with pytest.raises(ObjectMissing):
        store.get("never")
    with pytest.raises(ObjectMissing):
        store.describe("never")
    assert store.list("never/") == ()


def test_an_overwritten_object_has_another_version(store):
    store.put("rows", b"one")
    before = store.describe("rows").version
    store.put("rows", b"other")
    assert store.describe("rows").version != before


def test_a_large_object_goes_up_in_parts_and_comes_back_whole(tmp_path, s3_endpoint, s3_bucket, monkeypatch):
    monkeypatch.setattr(s3_store, "_PART_BYTES", 5 << 20)
    store = an_s3_store(s3_endpoint, write_credentials(tmp_path / "keys"), bucket=s3_bucket)
    data = bytes(range(256)) * (11 << 12)
    store.put("large", data)
    assert store.get("large") == data


@pytest.mark.parametrize(
    ("status", "code"), [(409, "ExistingObjectIsDirectory"), (409, "OperationAborted"), (429, "SlowDown"), (503, "SlowDown")]
)
def test_what_may_pass_by_itself_is_asked_again(status, code, tmp_path):
    with serving(an_error(status, code)) as endpoint:
        store = an_s3_store(endpoint, write_credentials(tmp_path), bucket="models", patience_seconds=0.2)
        with pytest.raises(StoreUnavailable, match=code):
            store.get("config.json")


@pytest.mark.parametrize(
    ("status", "code", "wanted", "is_about_credentials"),
    [
        (404, "NoSuchBucket", 'there is no bucket "models" at http://', False),
        (403, "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY in the Secret", True),
        (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the Secret", True),
        (400, "ExpiredToken", "have expired (ExpiredToken); put new ones into the Secret", True),
        (403, "AccessDenied", "s3://models/qwen/config.json: access denied (AccessDenied)", False),
    ],
)
def test_a_refusal_is_told_in_the_users_words(status, code, wanted, is_about_credentials, tmp_path):
    with serving(an_error(status, code)) as endpoint:
        store = an_s3_store(endpoint, write_credentials(tmp_path), bucket="models", prefix="qwen")
        with pytest.raises(StoreRefused) as caught:
            store.get("config.json")
    assert wanted in caught.value.message
    assert caught.value.about_credentials is is_about_credentials


def test_a_clock_that_is_off_is_named_and_may_be_set_right(tmp_path):
    with serving(an_error(403, "RequestTimeTooSkewed")) as endpoint:
        store = an_s3_store(endpoint, write_credentials(tmp_path), bucket="models", patience_seconds=0.2)
        with pytest.raises(StoreUnavailable, match=r"the clock of this node \(20.* differs too much from that of http"):
            store.get("config.json")


def test_no_credentials_at_all_are_told_with_what_is_wanted(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = an_s3_store("http://127.0.0.1:9", tmp_path / "empty", bucket="models")
    with pytest.raises(StoreRefused, match="wanted a Secret with AWS_ACCESS_KEY_ID"):
        store.get("config.json")


def test_a_store_that_is_away_or_overloaded_is_unavailable_not_wrong(tmp_path):
    with serving(an_error(503, "SlowDown")) as endpoint:
        busy = an_s3_store(endpoint, write_credentials(tmp_path), bucket="models", patience_seconds=0.3)
        with pytest.raises(StoreUnavailable, match="answered SlowDown"):
            busy.get("x")
    gone = an_s3_store(endpoint, write_credentials(tmp_path), bucket="models", patience_seconds=0.3)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        gone.get("x")


def test_rotated_credentials_are_used_without_a_restart(tmp_path, s3_endpoint, s3_bucket):
    keys = write_credentials(tmp_path / "keys")
    store = an_s3_store(s3_endpoint, keys, bucket=s3_bucket)
    store.put("k", b"v")
    before = store._client()
    (keys / "AWS_SECRET_ACCESS_KEY").write_text("rotated")
    assert store.get("k") == b"v"
    assert store._client() is not before


def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = FolderStore(tmp_path / "file")
    with pytest.raises(StoreRefused, match="cannot be written"):
        store.put("k", b"v")
