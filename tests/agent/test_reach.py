"""Where a job may lead: nothing outside a claim or the cache is read or written, no key climbs, no node-local address is asked."""

import contextlib
import itertools
import os
import socket
from random import Random

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.builders import a_config, write_inputs
from tests.agent.object_stores import an_s3_store, write_credentials
from tests.agent.test_inputs import a_transfer, s3_config, upload
from tests.builders.texts import texts

from finetune_agent.preparing.fetch import Fetch
from finetune_agent.preparing.model_files import is_model_file
from finetune_agent.settings import Reach
from finetune_agent.stores import open_store as places
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import FolderStore, StoreRefused
from finetune_agent.stores.reachable import check_reachable
from finetune_agent.uploading.messages import Publish
from finetune_agent.uploading.publish import publish
from finetune_contract.config import DatasetConfig, ModelConfig, OutputConfig, StorageConfig
from finetune_contract.endpoints import check_endpoint
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.inside import join, resolve_inside
from finetune_contract.keys import LeavesFolder, check_key
from finetune_contract.places import parse_place

CANARY = "hf_CANARYCANARYCANARY"
PARTS = st.sampled_from(["..", ".", "", "a", "b.json", "..a", "\\..", "\0", "\n", "x_chat_templates.json", "additional_chat_templates"])


@given(st.lists(PARTS, max_size=6).map("/".join))
def test_a_joined_key_stays_below_its_folder_or_is_refused(tmp_path_factory, key):
    root = tmp_path_factory.getbasetemp()
    try:
        joined = join(root, key)
    except LeavesFolder:
        return
    assert os.path.normpath(joined).startswith(f"{root}/")
    assert "\0" not in key


@given(st.lists(PARTS, max_size=6).map("/".join))
def test_a_name_that_is_taken_for_a_model_file_is_always_a_safe_key(name):
    if is_model_file(name):
        assert check_key(name) == name
        assert name.count("/") == ("additional_chat_templates/" in name)


@pytest.mark.parametrize(
    "uri",
    [
        "pvc://data/../../../etc/finetune/credentials/HF_TOKEN",
        "pvc://data/a/../../x",
        "pvc://../x",
        "pvc://./x",
        "pvc://data//etc/passwd",
        "pvc://data/a\\..\\b",
        "pvc://data/a\0b",
        "pvc://Data/x",
        "file:///data/../etc/passwd",
        "configmap://rows/..",
        "configmap://rows/..data",
        "configmap://../rows",
        "s3://My_Bucket!/x",
        "s3://a..b/x",
        "s3://bucket/../other",
        "s3://bucket//x",
        "hf://../x",
        "hf://owner/name/../../x",
        "s3://bucket/" + "x" * 2000,
    ],
)
def test_a_place_that_climbs_or_cannot_be_is_refused(uri):
    with pytest.raises(ValueError):
        parse_place(uri)


def a_claim(folder, monkeypatch, name="data"):
    monkeypatch.setattr(places, "PVC_MOUNT_ROOT", str(folder / "mnt"))
    claim = folder / "mnt" / name
    claim.mkdir(parents=True)
    (folder / "secret").write_text(CANARY)
    return claim


def dataset(uri: str) -> DatasetConfig:
    return DatasetConfig(uri=uri, eval_uri=None, eval_fraction=0, format="auto")


@pytest.mark.parametrize("where", ["the file", "the folder", "a file of the folder", "a loop"])
def test_rows_behind_a_link_out_of_the_claim_are_refused(where, tmp_path, monkeypatch):
    claim = a_claim(tmp_path, monkeypatch)
    (claim / "many").mkdir()
    if where == "the file":
        (claim / "rows.jsonl").symlink_to(tmp_path / "secret")
    elif where == "the folder":
        (tmp_path / "rows.jsonl").write_text(CANARY)
        (claim / "many").rmdir()
        (claim / "many").symlink_to(tmp_path)
    elif where == "a loop":
        (claim / "rows.jsonl").symlink_to(claim / "rows.jsonl")
    else:
        (claim / "many" / "a.jsonl").write_text("{}\n")
        (claim / "many" / "b.jsonl").symlink_to(tmp_path / "secret")
    uri = "pvc://data/rows.jsonl" if where in {"the file", "a loop"} else "pvc://data/many/"
    with pytest.raises(TrainingError) as caught:
        a_transfer(tmp_path, a_config(tmp_path, dataset=dataset(uri))).run()
    assert caught.value.failure_class is FailureClass.USER_ERROR
    assert caught.value.message.startswith("spec.dataset.uri: ")
    assert CANARY not in caught.value.message


def test_a_link_within_the_claim_is_followed(tmp_path, monkeypatch):
    claim = a_claim(tmp_path, monkeypatch)
    (claim / "v2.jsonl").write_text('{"text": "x"}\n')
    (claim / "rows.jsonl").symlink_to("v2.jsonl")
    assert a_transfer(tmp_path, a_config(tmp_path, dataset=dataset("pvc://data/rows.jsonl"))).run().inputs is not None


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer.json", "config.json", "additional_chat_templates/x.jinja"])
def test_a_model_with_a_link_out_of_the_claim_is_refused(name, tmp_path, monkeypatch):
    claim = a_claim(tmp_path, monkeypatch)
    write_inputs(claim)
    link = claim / "model" / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(TrainingError, match=r"spec.model.uri: .* symbolic link out of"):
        a_transfer(tmp_path, a_config(tmp_path, model=ModelConfig(uri="pvc://data/model", revision=None))).run()


def test_nothing_is_written_through_a_link_out_of_the_claim(tmp_path, monkeypatch):
    claim = a_claim(tmp_path, monkeypatch)
    (tmp_path / "outside").mkdir()
    (claim / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(TrainingError, match=r"spec.output.uri: .* symbolic link out of"):
        a_transfer(tmp_path, a_config(tmp_path, output=OutputConfig(uri="pvc://data/out", if_exists="Fail"))).run()
    store = FolderStore(claim, inside=claim)
    for attempt in (
        lambda: store.put("out/x", b"1"),
        lambda: store.get("out/x"),
        lambda: store.put("../x", b"1"),
        lambda: store.put("/x", b""),
    ):
        with pytest.raises(StoreRefused):
            attempt()
    assert list((tmp_path / "outside").iterdir()) == []


def test_files_of_the_machine_are_for_local_runs(tmp_path):
    transfer = a_transfer(tmp_path, a_config(tmp_path))
    fetch = Fetch(
        storage=StorageConfig(endpoint=None, region=None),
        credentials=CredentialFiles(None),
        cache=tmp_path / "cache",
        random=Random(0),
        reach=Reach(files=False),
    )
    assert transfer.run().inputs is not None
    with pytest.raises(StoreRefused, match=r"file:// is for local runs"):
        fetch.dataset(f"file://{tmp_path}/rows.jsonl", "train")


@pytest.mark.parametrize(
    "key",
    ["additional_chat_templates/../../../.aws/config", "/abs/x_chat_templates.json", "a/tokenizer.json", "tokenizer.py", "../config.json"],
)
def test_a_bucket_with_hostile_keys_writes_nothing_beside_the_model(key, tmp_path, s3_endpoint, s3_bucket):
    upload(tmp_path, s3_endpoint, s3_bucket)
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="secret")
    client.put_object(Bucket=s3_bucket, Key=f"models/tiny/{key}", Body=b"[default]\ncredential_process = touch /tmp/owned\n")
    folder = a_transfer(tmp_path, s3_config(tmp_path, s3_endpoint, s3_bucket)).run().inputs.model_dir
    assert sorted(os.listdir(folder)) == [".finetune-complete.json", "config.json", "model.safetensors"]
    assert not list(tmp_path.rglob(".aws"))


def test_only_what_an_adapter_is_made_of_is_published(tmp_path):
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_text(CANARY)
    (out / "adapter_model.safetensors").write_bytes(b"weights")
    (out / "adapter_config.json").write_text("{}")
    (out / "deep/adapter_config.json").write_text(CANARY)
    (out / "core.1234").write_text(CANARY)
    (out / "merges.txt").symlink_to(tmp_path / "secret")
    publish(FolderStore(tmp_path / "adapter"), a_config(tmp_path), Publish(id=1, folder=str(out), formation=1, step=9))
    names = sorted(path.name for path in (tmp_path / "adapter").rglob("*"))
    assert names == ["adapter_config.json", "adapter_model.safetensors", "finetune-manifest.json"]
    assert all(CANARY not in path.read_text() for path in (tmp_path / "adapter").iterdir())


METADATA = [
    "http://169.254.169.254",
    "http://169.254.169.254:80/latest/",
    "http://169.254.170.23/v1",
    "http://2852039166/",
    "http://0xA9FEA9FE",
    "http://0xa9.0xfe.0xa9.0xfe",
    "http://0251.0376.0251.0376",
    "http://169.254.43518",
    "http://[::ffff:169.254.169.254]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://[fe80::1%25eth0]",
    "http://[fd00:ec2::254]/",
    "http://METADATA.google.internal.",
    "http://metadata",
    "http://100.100.100.200",
]


@pytest.mark.parametrize("url", METADATA)
def test_an_address_that_answers_with_the_nodes_credentials_is_refused_unless_it_is_listed(url):
    with pytest.raises(ValueError, match="link-local or metadata address"):
        check_endpoint(url)


@pytest.mark.parametrize(
    "url",
    [
        "not a url",
        "s3.example.com",
        "ftp://host",
        "http://",
        "https:///x",
        "http://a b",
        "http://h:99999",
        "http://[::1",
        "http://a..b",
        "http://h\n",
    ],
)
def test_what_is_no_url_is_refused_in_words(url):
    with pytest.raises(ValueError, match=r"is no URL; wanted|has no valid host"):
        check_endpoint(url)


def test_a_password_in_an_url_is_not_repeated():
    for url in (f"https://user:{CANARY}@host/x", f"ftp://user:{CANARY}@host", f"https://host/?token={CANARY}"):
        with pytest.raises(ValueError) as caught:
            check_endpoint(url)
        assert CANARY not in str(caught.value)


@given(texts(40) | st.text(alphabet="0123456789abcx.:[]/@%", max_size=30).map("http://{}".format))
def test_no_endpoint_is_a_crash(url):
    with contextlib.suppress(ValueError):
        assert check_endpoint(url).host


def test_a_name_that_leads_to_such_an_address_is_refused_by_name(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(StoreRefused, match=r"store.example \(address 169.254.169.254\) is a link-local") as caught:
        check_reachable("https://store.example", field="spec.storage.endpoint", allowed=())
    assert caught.value.field == "spec.storage.endpoint"
    check_reachable("https://store.example", field="spec.storage.endpoint", allowed={"store.example"})


@pytest.mark.parametrize(
    ("storage", "wanted"),
    [
        ({"endpoint": "not a url"}, "spec.storage.endpoint: 'not a url' is no URL; wanted an http:// or https:// URL"),
        ({"endpoint": "http://169.254.169.254"}, "spec.storage.endpoint: 169.254.169.254 is a link-local or metadata address"),
        ({"endpoint": None, "region": "not a region!"}, "spec.storage.region: "),
    ],
)
def test_storage_that_cannot_be_is_told_at_once_and_not_waited_for(storage, wanted, tmp_path):
    config = s3_config(tmp_path, None, "bucket", storage=StorageConfig(**({"region": "us-east-1"} | storage)))
    with pytest.raises(TrainingError) as caught:
        a_transfer(tmp_path, config).run()
    assert caught.value.failure_class is FailureClass.USER_ERROR
    assert caught.value.message.startswith(wanted)


def test_a_bucket_that_cannot_be_is_refused_by_the_store_too(tmp_path):
    store = an_s3_store("http://127.0.0.1:9", write_credentials(tmp_path), bucket="My_Bucket!")
    with pytest.raises(StoreRefused, match="s3://My_Bucket!/x cannot be asked for"):
        store.get("x")


def test_credentials_are_in_no_message_and_in_no_published_file(tmp_path, monkeypatch):
    """Every refusal that a job's author can provoke, with a Secret whose values are canaries."""
    claim = a_claim(tmp_path, monkeypatch)
    keys = tmp_path / "keys"
    keys.mkdir(exist_ok=True)
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        (keys / name).write_text(CANARY)
    (claim / "rows.jsonl").symlink_to(keys / "HF_TOKEN")
    write_inputs(claim)
    (claim / "model/config.json").unlink()
    (claim / "model/config.json").symlink_to(keys / "HF_TOKEN")
    uris = (
        f"pvc://data/../../{keys}/HF_TOKEN",
        "pvc://data/rows.jsonl",
        "pvc://data/*.jsonl",
        f"file://{tmp_path}/no",
        "s3://My_Bucket!/x",
    )
    models = ("pvc://data/model", "pvc://data/../model", f"file://{keys}")
    for uri, model in itertools.product(uris, models):
        transfer = a_transfer(tmp_path, a_config(tmp_path, dataset=dataset(uri), model=ModelConfig(uri=model, revision=None)))
        with pytest.raises(TrainingError) as caught:
            transfer.run()
        assert CANARY not in caught.value.message
    assert all(CANARY not in path.read_text() for path in (tmp_path / "adapter").glob("*"))


def test_a_path_without_links_is_inside(tmp_path):
    assert resolve_inside(tmp_path, tmp_path / "not-yet" / "x") == tmp_path.resolve() / "not-yet/x"
