"""Rows in many files: those of a folder or a pattern, in the order of their names, with one digest over all of them."""

import boto3
import pytest
from tests.agent.builders import a_config
from tests.agent.test_inputs import a_transfer, s3_config, upload
from tests.agent.test_reach import dataset

from finetune_agent.preparing.row_files import choose_files, choose_of_repository
from finetune_agent.stores.object_store import StoreRefused
from finetune_contract.failures import TrainingError

FILES = {
    "b.jsonl": b'{"text": "b"}\n',
    "a.jsonl": b'{"text": "a"}\n',
    "c.parquet": b"PAR1",
    "README.md": b"#",
    "_SUCCESS": b"",
    ".x.jsonl": b"",
}


def put_many(endpoint, bucket):
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="secret")
    for name, data in {**FILES, "deep/z.jsonl": b"{}"}.items():
        client.put_object(Bucket=bucket, Key=f"rows/{name}", Body=data)


@pytest.mark.parametrize(
    ("last", "names"),
    [
        ("rows/", ["a.jsonl", "b.jsonl", "c.parquet"]),
        ("rows", ["a.jsonl", "b.jsonl", "c.parquet"]),
        ("rows/*.jsonl", [".x.jsonl", "a.jsonl", "b.jsonl"]),
    ],
)
def test_a_folder_and_a_bucket_give_the_same_files_and_the_same_digest(last, names, tmp_path, s3_endpoint, s3_bucket):
    upload(tmp_path, s3_endpoint, s3_bucket)
    put_many(s3_endpoint, s3_bucket)
    (tmp_path / "rows/deep").mkdir(parents=True)
    for name, data in FILES.items():
        (tmp_path / "rows" / name).write_bytes(data)
    in_place = a_transfer(tmp_path, a_config(tmp_path, dataset=dataset(f"file://{tmp_path}/{last}"))).run().inputs
    config = s3_config(tmp_path, s3_endpoint, s3_bucket, dataset=dataset(f"s3://{s3_bucket}/{last}"))
    fetched = a_transfer(tmp_path, config).run().inputs
    assert [file.rpartition("/")[2] for file in fetched.dataset_files] == names
    assert [file.rpartition("/")[2] for file in in_place.dataset_files] == names
    assert fetched.digests.dataset == in_place.digests.dataset
    assert a_transfer(tmp_path, config).run().inputs == fetched
    (tmp_path / "rows" / "b.jsonl").write_bytes(b"other")
    again = a_transfer(tmp_path, a_config(tmp_path, dataset=dataset(f"file://{tmp_path}/{last}"))).run().inputs
    assert again.digests.dataset != in_place.digests.dataset


@pytest.mark.parametrize("last", ["empty/", "empty/*.jsonl", "*/x.jsonl", "nothing/"])
def test_a_place_without_rows_is_refused_with_what_is_wanted(last, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"spec.dataset.uri: .*wanted|wildcards may stand after the last slash only"):
        a_transfer(tmp_path, a_config(tmp_path, dataset=dataset(f"file://{tmp_path}/{last}"))).run()


SPLITS = ("README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")


@pytest.mark.parametrize(
    ("names", "inside", "chosen"),
    [
        (("README.md", "rows.jsonl"), "", ("rows.jsonl",)),
        (("README.md", "dataset_infos.json", "alpaca_data.json"), "", ("alpaca_data.json",)),
        (SPLITS, "", SPLITS[2:]),
        (SPLITS, "data/test-00000-of-00001.parquet", SPLITS[1:2]),
        (SPLITS, "data", SPLITS[1:]),
        (SPLITS, "data/train-*.parquet", SPLITS[2:]),
        (("train/a.jsonl", "train/b.jsonl", "test/a.jsonl"), "", ("train/a.jsonl", "train/b.jsonl")),
        (("train.jsonl", "training_args.json", "test.jsonl"), "", ("train.jsonl",)),
    ],
)
def test_of_a_data_set_on_a_hub_the_training_split_is_taken_or_what_is_named(names, inside, chosen):
    assert choose_of_repository(names, inside, uri="hf://o/n") == chosen


@pytest.mark.parametrize(
    ("names", "inside", "said"),
    [
        (("README.md",), "", "holds no file of rows: it holds README.md; wanted files that end in .jsonl"),
        (
            ("main/train-0.parquet", "socratic/train-0.parquet"),
            "",
            "does not say which to train on; name a file, a folder or a pattern, as in hf://o/n/main/train-0",
        ),
        (("a.jsonl", "b.jsonl"), "", "holds 2 files of rows (a.jsonl, b.jsonl) and does not say which"),
        (("a.jsonl",), "b.jsonl", "holds no file of rows"),
    ],
)
def test_what_a_data_set_does_not_say_is_asked_for(names, inside, said):
    with pytest.raises(StoreRefused) as caught:
        choose_of_repository(names, inside, uri="hf://o/n")
    assert said in str(caught.value)


def test_the_number_of_files_is_bounded():
    with pytest.raises(StoreRefused, match="at most 10000 are read"):
        choose_files([f"{number}.jsonl" for number in range(10_001)], "", uri="s3://b/d/")


def test_what_this_program_writes_beside_rows_is_nobodys_row():
    """A bucket that holds our own marker decides nothing about what was fetched."""
    names = (".finetune-complete.json", "a.json")
    assert choose_files(names, "*", uri="s3://b/d/*") == ("a.json",)
    assert choose_of_repository(names, "*", uri="hf://t/d/*") == ("a.json",)
    with pytest.raises(StoreRefused):
        choose_of_repository(names, ".finetune-complete.json", uri="hf://t/d/.finetune-complete.json")
