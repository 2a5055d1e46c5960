"""Whole runs of one formation: the recorded loss, what is told on the way, how failures are worded, and plain torchrun."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.builders.machine import HANG_SECONDS
from tests.trainer.formations import NUM_STEPS, ROOT, a_config, an_order, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_contract.slots import SlotFile
from finetune_trainer.batch import RowOrder

# A refactor must not move these; other rows in examples/ do.
# Recorded with torch 2.15 on x86-64: the same digits with and without AVX2 and AVX-512.
RECORDED_LOSSES = {
    "qwen3": (6.4124, 6.4109, 6.4159, 6.3496, 6.3865, 6.4565),
    "qwen2": (6.3989, 6.3750, 6.4362, 6.3137, 6.3472, 6.2972),
    "llama": (6.3396, 6.3894, 6.4209, 6.3562, 6.4120, 6.3422),
}
# Finite, as every weight of a base must be, and infinite in the first product.
LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture(scope="module")
def trained(formations, inputs, tmp_path_factory):
    """architecture -> a finished run of one rank with held-out rows."""
    ended = {}
    for architecture in RECORDED_LOSSES:
        config = a_config(inputs / architecture, inputs / "rows.jsonl", dataset={"evalFraction": 0.2})
        ended[architecture] = formations.run(config, tmp_path_factory.mktemp(architecture))
    return ended


@pytest.mark.parametrize("architecture", RECORDED_LOSSES)
def test_the_loss_is_the_recorded_one(architecture, trained):
    assert trained[architecture].losses == pytest.approx(RECORDED_LOSSES[architecture], abs=2e-4)


@pytest.mark.parametrize("architecture", RECORDED_LOSSES)
def test_peft_measures_the_loss_that_the_trainer_reported(architecture, trained, inputs, formations, tmp_path):
    # All rows are held-out rows here: the mean over them is what anybody can compute with peft.
    config = a_config(inputs / architecture, inputs / "rows.jsonl")
    ended = formations.run(config, tmp_path, eval_files=[str(inputs / "rows.jsonl")])
    base = AutoModelForCausalLM.from_pretrained(inputs / architecture, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    total, count = 0.0, 0
    for line in (inputs / "rows.jsonl").read_text().splitlines():
        encoded = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        ids, is_said = encoded["input_ids"][:, :96], torch.as_tensor(encoded["assistant_masks"]).bool().reshape(1, -1)[:, :96]
        labels = ids.masked_fill(~is_said, -100)
        num_targets = int((labels[:, 1:] != -100).sum())
        if num_targets:
            with torch.no_grad():
                total += float(model(input_ids=ids, labels=labels).loss) * num_targets
            count += num_targets
    assert ended.of("exported")[0]["eval_loss"] == pytest.approx(total / count, abs=1e-5)


def test_a_run_tells_its_phases_in_order_and_ends_with_done(trained):
    run = trained["qwen3"]
    assert [event["phase"] for event in run.of("phase")] == [
        "loading",
        "preparing",
        "first_step",
        "training",
        "evaluating",
        "training",
        "exporting",
    ]
    # The last step is told twice: when it is done, and when it is evaluated.
    assert [event["progress"]["step"] for event in run.of("progress")] == [*range(1, NUM_STEPS + 1), NUM_STEPS]
    assert run.of("progress")[-1]["progress"]["eval_loss"] == run.of("exported")[0]["eval_loss"]
    assert run.events[-1] == {"type": "done", "rank": 0}


def test_rows_that_were_cut_are_told(formations, inputs, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "short"}] * 8 + [{"text": "word " * 300}])
    ended = formations.run(a_config(inputs / "qwen3", rows), tmp_path)
    assert "1 of 9 rows was cut at spec.training.maxSequenceLength 96" in ended.of("warning")[0]["message"]


def test_ranks_without_work_are_named_and_do_no_harm(formations, inputs, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {number}"} for number in range(8)])
    config = a_config(inputs / "qwen3", rows, training={"globalBatchSize": 1, "maxSteps": 3})
    alone, three = formations.run(config, tmp_path / "one"), formations.run(config, tmp_path / "three", nodes=3)
    warning = next(event for event in three.of("warning") if event["reason"] == "IdleRanks")
    assert "1 micro-batch for 3 ranks, so ranks 0, 1 stay idle" in warning["message"]
    assert alone.adapter_sha256 == three.adapter_sha256 != ""


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_rows(formations, inputs, tmp_path):
    model = copy_model(inputs / "qwen3", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = LARGEST
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    ended = formations.run(a_config(model, inputs / "rows.jsonl"), tmp_path)
    assert ended.failure["failure_class"] == "NotFinite"
    assert ended.failure["message"].startswith("step 1: loss nan")
    assert "Rows: " in ended.failure["message"]
    fd = os.open(tmp_path / "slots-0", os.O_RDWR)
    assert SlotFile(fd).read_newest() is None
    os.close(fd)


def test_a_value_that_is_not_finite_is_traced_to_its_rank_and_row(formations, inputs, tmp_path):
    # Only row 11 has a token with this direction, which its first norm makes infinite; every row has a micro-batch of its own.
    model = copy_model(inputs / "llama", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    embedding[:, 0] = 0.0
    embedding[AutoTokenizer.from_pretrained(model)("~")["input_ids"], 0] = 1.0
    tensors["model.layers.0.input_layernorm.weight"][0] = LARGEST
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {number} {'~' if number == 11 else ''}"} for number in range(1, 17)])
    config = a_config(model, rows, training={"packing": False, "globalBatchSize": 4})
    ended = formations.run(config, tmp_path / "two", nodes=2)
    report, step = ended.failure, len(ended.losses) + 1
    packs = [int(number) for number in rows_of_step(config, step)]
    assert report["rank"] == packs.index(11) // 2
    assert f"step {step}: loss nan" in report["message"]
    assert f"Computed by rank {report['rank']}. Rows: 11. " in report["message"]


def rows_of_step(config, step: int):
    """Numbers (from 1) of the rows of a step, in order."""
    training = config.training
    row_order = RowOrder(np.arange(16), seed=training.seed, batch_size=training.global_batch_size, epochs=9, max_steps=None)
    return [row + 1 for row in row_order.rows_of(step - 1).rows]


def copy_model(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_bad_row_fails_with_its_number_on_every_layout(formations, inputs, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "fine"}] * 16 + [{"txet": "not fine"}])
    ended = formations.run(a_config(inputs / "qwen3", rows), tmp_path, nodes=2)
    assert ended.failure["failure_class"] == "UserError"
    assert ended.failure["message"] == ("spec.dataset.uri: row 17: has no text: it has txet; the rows of this file are of the form text")


def test_other_numerics_are_declared_on_resume(formations, inputs, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl")
    formations.run(config, tmp_path, kill_at=3)
    resumed = formations.run(config, tmp_path, formation=2, overrides={"pack_tokens": 48})
    warning = next(event for event in resumed.of("warning") if event["reason"] == "NumericsChanged")
    assert "pack_tokens 96 -> 48" in warning["message"]


def test_plain_torchrun_trains_the_same_adapter(trained, inputs, tmp_path):
    config = a_config(inputs / "qwen3", inputs / "rows.jsonl", dataset={"evalFraction": 0.2})
    order = an_order(config, tmp_path, processes_per_node=2)
    (tmp_path / "order.json").write_text(order.model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "finetune_trainer"]
    environment = os.environ | {"FINETUNE_RUN_ORDER": str(tmp_path / "order.json"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(torchrun, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / weights).read_bytes() == (trained["qwen3"].folder / weights).read_bytes()


def test_plain_torchrun_without_an_order_says_what_is_missing():
    environment = {name: value for name, value in os.environ.items() if name != "FINETUNE_RUN_ORDER"}
    ended = subprocess.run([sys.executable, "-m", "finetune_trainer"], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "set FINETUNE_RUN_ORDER to a JSON file with a run order\n")
