"""`finetune rows` as its users meet it."""

import subprocess
import sys
from pathlib import Path

import yaml
from tests.builders.machine import HANG_SECONDS

CHAT = "\n".join(
    f'{{"messages": [{{"role": "user", "content": "q{number}"}}, {{"role": "assistant", "content": "a{number}"}}]}}' for number in range(4)
)


def rows(folder, *documents, options=()):
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    command = [Path(sys.executable).with_name("finetune"), "rows", str(file), "--plain", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)


def test_a_job_of_the_cluster_is_looked_at_with_the_model_and_the_config_map_at_hand(inputs, document, tmp_path):
    job = document(model="untemplated")
    job["spec"] |= {
        "model": {"uri": "hf://owner/large"},
        "dataset": {"uri": "configmap://data/rows.jsonl"},
        "checkpoint": {"uri": "pvc://claim/checkpoints"},
        "output": {"uri": "pvc://claim/adapter"},
    }
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": {"rows.jsonl": CHAT}}
    shown = rows(tmp_path, data, job, options=("--model", str(inputs / "qwen3"), "--rows", "1"))
    assert shown.returncode == 0, shown.stderr
    assert "[[a0" in shown.stdout
    assert "[[a1" not in shown.stdout
    assert "spec.dataset.uri: 4 rows" in shown.stdout
    assert "end of turn trained: yes" in shown.stdout


def test_what_would_fail_in_the_cluster_fails_here_in_the_same_words(document, tmp_path):
    (tmp_path / "bad.jsonl").write_text(CHAT + '\n{"massages": []}\n')
    refused = rows(tmp_path, document(), options=("--data", str(tmp_path / "bad.jsonl")))
    assert refused.returncode == 1
    assert "spec.dataset.uri: row 5: has no messages: it has massages" in refused.stderr
    invalid = rows(tmp_path, document(adapter={"rank": 0}))
    assert (invalid.returncode, "spec.adapter.rank: got 0" in invalid.stderr) == (2, True)


def test_a_place_in_the_cluster_names_the_option(document, tmp_path):
    refused = rows(tmp_path, document(model="qwen3") | {}, options=("--data", "/nowhere.jsonl"))
    assert (refused.returncode, "/nowhere.jsonl does not exist" in refused.stderr) == (1, True)
    job = document()
    job["spec"]["model"] = {"uri": "pvc://claim/model"}
    job["spec"]["checkpoint"] = {"uri": "pvc://claim/checkpoints"}
    job["spec"]["output"] = {"uri": "pvc://claim/adapter"}
    job["spec"]["dataset"] = {"uri": "s3://bucket/rows.jsonl"}
    refused = rows(tmp_path, job)
    assert (refused.returncode, "pass a copy with --model DIR" in refused.stderr) == (2, True), refused.stderr
