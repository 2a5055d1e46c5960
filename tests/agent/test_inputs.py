"""Model and data come from everywhere with the same digest, and what is wrong with them is told in the user's words."""

import hashlib
import itertools
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import boto3
import pytest
from tests.agent.builders import a_config, write_inputs
from tests.agent.fake_hub import COMMIT, MODEL, a_hub
from tests.agent.members import Member, write_config
from tests.agent.object_stores import an_error, serving, write_credentials
from tests.builders.machine import HANG_SECONDS

from finetune_agent.member.file_stamps import find_changed, take_stamps
from finetune_agent.preparing.digests import combine
from finetune_agent.preparing.fetch import copy_of_key
from finetune_agent.preparing.messages import TransferDone, TransferFailed, Transferred, parse_transfer_report
from finetune_agent.preparing.patience import until_it_answers
from finetune_agent.preparing.transfer import Transfer
from finetune_agent.settings import read_settings
from finetune_agent.stores.object_store import FolderStore, StoreRefused, StoreUnavailable
from finetune_agent.uploading.messages import Publish
from finetune_agent.uploading.publish import publish
from finetune_contract.config import CheckpointConfig, DatasetConfig, JobIdentity, ModelConfig, OutputConfig, StorageConfig
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.places import parse_place
from finetune_contract.reports import Warned
from finetune_contract.run_order import RowsInputs


def a_transfer(folder, config, tell=lambda report: None) -> Transfer:
    write_inputs(folder)
    keys = write_credentials(folder / "keys")
    member = Member(uid="m", folder=folder / "m", config_path=folder, channel=folder, FINETUNE_CREDENTIALS_DIR=str(keys))
    return Transfer(config=config, settings=read_settings(member.environment), tell=tell, random=Random(0))


def s3_config(folder, endpoint, bucket, **changes):
    values = {
        "model": ModelConfig(uri=f"s3://{bucket}/models/tiny", revision=None),
        "dataset": DatasetConfig(uri=f"s3://{bucket}/rows.jsonl", eval_uri=None, eval_fraction=0.0, format="auto"),
        "checkpoint": CheckpointConfig(uri=f"s3://{bucket}/ckpt", keep=2, min_interval_seconds=0.0),
        "output": OutputConfig(uri=f"s3://{bucket}/adapter", if_exists="Fail"),
        "storage": StorageConfig(endpoint=endpoint, region="us-east-1"),
    }
    return a_config(folder, **(values | changes))


def upload(folder, endpoint, bucket) -> None:
    write_inputs(folder)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="secret")
    for name in ("config.json", "model.safetensors"):
        client.put_object(Bucket=bucket, Key=f"models/tiny/{name}", Body=(folder / "model" / name).read_bytes())
    client.put_object(Bucket=bucket, Key="models/tiny/notes.md", Body=b"not of the model")
    client.put_object(Bucket=bucket, Key="rows.jsonl", Body=(folder / "rows.jsonl").read_bytes())


def test_a_folder_and_a_bucket_with_the_same_bytes_have_the_same_digests(tmp_path, s3_endpoint, s3_bucket):
    upload(tmp_path, s3_endpoint, s3_bucket)
    in_place = a_transfer(tmp_path, a_config(tmp_path)).run().inputs
    fetched = a_transfer(tmp_path, s3_config(tmp_path, s3_endpoint, s3_bucket)).run().inputs
    assert fetched.digests == in_place.digests
    assert in_place.model_dir == str(tmp_path / "model")
    assert sorted(os.listdir(fetched.model_dir)) == [".finetune-complete.json", "config.json", "model.safetensors"]


def test_what_is_complete_in_the_cache_is_not_fetched_again(tmp_path, s3_endpoint, s3_bucket):
    upload(tmp_path, s3_endpoint, s3_bucket)
    config = s3_config(tmp_path, s3_endpoint, s3_bucket)
    first = a_transfer(tmp_path, config).run().inputs
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="s")
    client.delete_object(Bucket=s3_bucket, Key="rows.jsonl")
    assert a_transfer(tmp_path, config).run().inputs == first


def write_again(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("harm", [write_again, Path.unlink])
@pytest.mark.parametrize("name", ["model/model.safetensors", "rows.jsonl"])
def test_a_file_that_is_not_as_it_was_when_it_was_hashed_is_found_by_name(name, harm, tmp_path):
    stamps = take_stamps(a_transfer(tmp_path, a_config(tmp_path)).run().inputs)
    assert find_changed(stamps) is None
    harm(tmp_path / name)
    assert name in find_changed(stamps)


def test_a_changed_byte_changes_the_digest(tmp_path):
    before = a_transfer(tmp_path, a_config(tmp_path)).run().inputs.digests
    transfer = a_transfer(tmp_path, a_config(tmp_path))
    (tmp_path / "model/model.safetensors").write_bytes(b"weightS")
    after = transfer.run().inputs.digests
    assert (before.model != after.model, before.dataset == after.dataset) == (True, True)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model": ModelConfig(uri="file:///nowhere", revision=None)}, "spec.model.uri: file:///nowhere is not a folder; wanted"),
        (
            {"dataset": DatasetConfig(uri="file:///no.jsonl", eval_uri=None, eval_fraction=0, format="auto")},
            "spec.dataset.uri: file:///no.jsonl does not exist; wanted",
        ),
        ({"model": ModelConfig(uri="pvc://claim/model", revision=None)}, "spec.model.uri: the claim claim is not mounted"),
        ({"output": OutputConfig(uri="hf://owner/adapter", if_exists="Fail")}, "spec.output.uri: hf:// places can only be read"),
    ],
)
def test_a_place_on_this_machine_that_is_wrong_is_named(changes, wanted, tmp_path):
    with pytest.raises(TrainingError) as caught:
        a_transfer(tmp_path, a_config(tmp_path, **changes)).run()
    assert caught.value.failure_class is FailureClass.USER_ERROR
    assert caught.value.message.startswith(wanted)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model": ModelConfig(uri="s3://BUCKET/nothing", revision=None)}, "spec.model.uri: there is no model at s3://BUCKET/nothing"),
        (
            {"dataset": DatasetConfig(uri="s3://BUCKET/no.jsonl", eval_uri=None, eval_fraction=0, format="auto")},
            "spec.dataset.uri: s3://BUCKET/no.jsonl does not exist",
        ),
        (
            {"checkpoint": CheckpointConfig(uri="s3://no-such-bucket/x", keep=2, min_interval_seconds=0)},
            'spec.checkpoint.uri: there is no bucket "no-such-bucket"',
        ),
    ],
)
def test_a_place_in_s3_that_is_wrong_is_named(changes, wanted, tmp_path, s3_endpoint, s3_bucket):
    upload(tmp_path, s3_endpoint, s3_bucket)
    config = s3_config(tmp_path, s3_endpoint, s3_bucket, **changes)
    config = type(config).model_validate_json(config.model_dump_json().replace("BUCKET", s3_bucket))
    with pytest.raises(TrainingError, match=wanted.replace("BUCKET", s3_bucket)) as caught:
        a_transfer(tmp_path, config).run()
    assert caught.value.failure_class is FailureClass.USER_ERROR


def test_a_wrong_secret_names_the_secret_not_the_place(tmp_path):
    with serving(an_error(403, "SignatureDoesNotMatch")) as endpoint, pytest.raises(TrainingError) as caught:
        a_transfer(tmp_path, s3_config(tmp_path, endpoint, "models")).run()
    assert caught.value.message.startswith("spec.storage.secretName: http://")
    assert "secret" not in caught.value.message.replace("secretName", "")


def test_a_store_that_is_away_is_waited_for_with_one_warning(tmp_path):
    told: list = []
    answers = [StoreUnavailable("503"), StoreUnavailable("503"), "rows"]

    def attempt() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert a_transfer(tmp_path, a_config(tmp_path), told.append)._try("spec.dataset.uri", attempt) == "rows"
    assert [report.reason for report in told if isinstance(report, Warned)] == ["StorageUnavailable"]


def test_a_store_that_stays_away_is_told_every_minute(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr("finetune_agent.preparing.patience.time.monotonic", lambda: now[0])
    monkeypatch.setattr("finetune_agent.preparing.patience.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def attempt() -> str:
        if now[0] < 300:
            raise StoreUnavailable("no such host")
        return "rows"

    assert until_it_answers("spec.dataset.uri", attempt, warn=lambda words: told.append(now[0]), random=Random(1)) == "rows"
    assert (told[0], len(told)) == (0.0, 5)
    assert all(60 <= later - earlier < 75 for earlier, later in itertools.pairwise(told))


def a_config_map(folder, **keys: bytes) -> Path:
    """As the kubelet mounts it: each key a link through a folder that a change replaces."""
    mount = folder / "rows"
    (mount / "..2026").mkdir(parents=True)
    (mount / "..data").symlink_to("..2026")
    for name, data in keys.items():
        (mount / "..2026" / name).write_bytes(data)
        (mount / name).symlink_to(f"..data/{name}")
    return folder


def test_rows_of_a_config_map_are_copied_so_that_an_edit_changes_no_running_job(tmp_path):
    mounts = a_config_map(tmp_path, train=b'{"text": "one"}\n')
    fetched = copy_of_key(parse_place("configmap://rows/train"), mounts, tmp_path / "rows.jsonl")
    (mounts / "rows/..2026/train").write_bytes(b"edited")
    assert fetched.path.read_bytes() == b'{"text": "one"}\n'
    assert fetched.sha256 == hashlib.sha256(b'{"text": "one"}\n').hexdigest()


def test_a_key_that_the_config_map_lacks_is_refused_and_a_config_map_that_is_not_there_is_waited_for(tmp_path):
    mounts = a_config_map(tmp_path, train=b"", held_out=b"")
    with pytest.raises(StoreRefused, match="the ConfigMap rows has no key trian; it has held_out, train"):
        copy_of_key(parse_place("configmap://rows/trian"), mounts, tmp_path / "rows.jsonl")
    (tmp_path / "late").mkdir()  # an optional volume without its ConfigMap is an empty folder
    with pytest.raises(StoreUnavailable, match="there is no ConfigMap late in this namespace"):
        copy_of_key(parse_place("configmap://late/train"), mounts, tmp_path / "rows.jsonl")


def publish_into(folder, uid: str, config) -> None:
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out/adapter_model.safetensors").write_bytes(b"weights")
    other = config.model_copy(update={"job": JobIdentity(name="other", namespace="team-a", uid=uid)})
    publish(FolderStore(folder / "adapter"), other, Publish(id=1, folder=str(folder / "out"), formation=1, step=9))


def test_an_adapter_of_this_job_that_is_there_already_is_the_end(tmp_path):
    config = a_config(tmp_path)
    publish_into(tmp_path, config.job.uid, config)
    done = a_transfer(tmp_path, config).run()
    assert (done.output.step, done.output.already_present) == (9, False)


def test_an_equal_adapter_is_skipped_refused_or_overwritten_as_told(tmp_path):
    publish_into(tmp_path, "other", a_config(tmp_path))

    def run(if_exists: str) -> TransferDone:
        return a_transfer(tmp_path, a_config(tmp_path, output=OutputConfig(uri=f"file://{tmp_path}/adapter", if_exists=if_exists))).run()

    assert run("Skip").output.already_present
    assert run("Overwrite").output is None
    with pytest.raises(TrainingError, match=r"spec.output.uri: .* already holds an adapter of the same configuration"):
        run("Fail")


TRANSFER = [sys.executable, "-m", "finetune_agent.preparing", str(os.getpid())]


def environment_of(folder, config, endpoint: str) -> dict[str, str]:
    """Of a member that asks the hub at `endpoint`."""
    write_inputs(folder)
    member = Member(uid="m", folder=folder / "m", config_path=write_config(folder, config), channel=folder, HF_ENDPOINT=endpoint)
    return member.environment | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def run_child(folder, config, endpoint: str, file_bytes=None) -> list:
    limit = None if file_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    child = subprocess.run(
        TRANSFER, env=environment_of(folder, config, endpoint), stdout=subprocess.PIPE, check=True, timeout=HANG_SECONDS, preexec_fn=limit
    )
    return [parse_transfer_report(line) for line in child.stdout.splitlines()]


def test_a_model_and_rows_from_a_hub_come_with_the_commit_and_without_other_weights(tmp_path):
    dataset = DatasetConfig(uri="hf://owner/rows", eval_uri=None, eval_fraction=0, format="auto")
    config = a_config(tmp_path, model=ModelConfig(uri="hf://owner/tiny", revision="main"), dataset=dataset)
    with a_hub() as endpoint:
        done = run_child(tmp_path, config, endpoint)[-1]
    assert isinstance(done, TransferDone)
    assert done.inputs.digests.model_revision == COMMIT
    wanted = {name: data for name, data in MODEL.items() if name != "pytorch_model.bin"}
    assert done.inputs.digests.model == combine({name: hashlib.sha256(data).hexdigest() for name, data in wanted.items()})
    assert Path(done.inputs.dataset_files[0]).read_text() == '{"text": "one"}\n'


@pytest.mark.parametrize(
    ("uri", "revision", "wanted"),
    [
        ("hf://owner/nothing", None, "spec.model.uri: hf://owner/nothing does not exist at http://"),
        ("hf://owner/tiny", "v9", 'spec.model.uri: hf://owner/tiny has no revision "v9"'),
    ],
)
def test_what_the_hub_does_not_have_is_named(uri, revision, wanted, tmp_path):
    with a_hub() as endpoint:
        failed = run_child(tmp_path, a_config(tmp_path, model=ModelConfig(uri=uri, revision=revision)), endpoint)[-1]
    assert isinstance(failed, TransferFailed)
    assert failed.report.failure_class is FailureClass.USER_ERROR
    assert failed.report.message.startswith(wanted)


def test_a_disk_without_room_for_the_model_is_named(tmp_path):
    """A limit on the size of files stands for the full disk: the same refusal, in the same place."""
    with a_hub() as endpoint:
        failed = run_child(tmp_path, a_config(tmp_path, model=ModelConfig(uri="hf://owner/tiny", revision="main")), endpoint, file_bytes=8)[
            -1
        ]
    assert isinstance(failed, TransferFailed)
    assert failed.report.failure_class is FailureClass.INFRASTRUCTURE
    assert f"the folder for model and data, {tmp_path}/m/work/cache, is full" in failed.report.message


def test_a_hub_that_does_not_answer_is_waited_for(tmp_path):
    config = a_config(tmp_path, model=ModelConfig(uri="hf://owner/tiny", revision="main"))
    with socket.socket() as closed:  # bound and not listening: the port refuses
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with subprocess.Popen(TRANSFER, env=environment_of(tmp_path, config, endpoint), stdout=subprocess.PIPE) as child:
            told = next(report for line in child.stdout if not isinstance(report := parse_transfer_report(line), Transferred))
            child.kill()
    assert isinstance(told, Warned), told
    assert told.message.startswith(f"spec.model.uri: {endpoint} does not answer for hf://owner/tiny")


def test_a_look_at_the_rows_fetches_no_weights(tmp_path):
    dataset = DatasetConfig(uri="hf://owner/rows", eval_uri=None, eval_fraction=0, format="auto")
    config = write_config(tmp_path, a_config(tmp_path, model=ModelConfig(uri="hf://owner/tiny", revision="main"), dataset=dataset))
    with a_hub() as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "finetune_agent.preparing.rows_inputs", str(config), str(tmp_path / "scratch")]
        child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=HANG_SECONDS)
    found = RowsInputs.model_validate_json(child.stdout)
    assert Path(found.dataset_files[0]).read_text() == '{"text": "one"}\n'
    assert sorted(path.name for path in Path(found.tokenizer_dir).iterdir() if path.is_file()) == ["config.json", "tokenizer.json"]
