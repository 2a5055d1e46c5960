"""Apply one YAML: an adapter stands in S3 that plain peft loads, with the loss and the logits that the trainer computed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from e2e.faults import in_training
from e2e.fixtures import Product
from e2e.product import Job, JsonObject, Team, wait_until
from finetune_contract.config import AdapterConfig
from finetune_trainer.attention import ATTENTION
from finetune_trainer.families import FAMILIES
from finetune_trainer.lora import adapter_parameters, add_adapters

HELD_OUT = "s3://data/held-out.jsonl"


@pytest.mark.parametrize("model", ["qwen3-tiny", "llama-tiny"])
def test_a_job_on_two_members_completes_with_an_adapter(team: Team, model: str, s3: Any, tmp_path: Path) -> None:
    job = team.submit(f"complete-{model}", model={"uri": f"s3://models/{model}"}, dataset={"evalFraction": None, "evalUri": HELD_OUT})
    job.wait_phase("Training", "Evaluating", "Exporting", "Complete", deadline_seconds=120)
    nodes = {pod["spec"].get("nodeName") for pod in job.pods()}
    status = job.wait_complete()
    assert len(nodes) == 2, "soft spread puts two members on two nodes"
    assert status["progress"]["step"] == status["progress"]["totalSteps"]
    assert status["progress"]["loss"] < status["progress"]["firstLoss"]
    adapter = fetch_adapter(job, team, s3, tmp_path / "adapter")
    base = fetch_folder(s3, "models", f"{model}/", tmp_path / "base")
    rows = json_lines(s3, "data", "held-out.jsonl")
    assert peft_loss(adapter, base, rows) == pytest.approx(status["progress"]["evalLoss"], abs=1e-4)
    torch.testing.assert_close(peft_logits(adapter, base, rows[0]), trainer_logits(adapter, base, rows[0]), rtol=1e-5, atol=1e-5)
    assert job.events()[-1] == "Completed"
    assert job.object["status"]["observedGeneration"] == job.object["metadata"]["generation"]


def test_a_gang_that_ends_while_no_operator_runs_is_complete_without_a_new_pod(team: Team, product: Product) -> None:
    job = in_training(team, "unwatched")
    members = {pod["metadata"]["uid"] for pod in job.live_pods()}
    with product.replicas(0):
        wait_until("the end of all members", lambda: not job.live_pods(), deadline_seconds=240)
        assert job.status["phase"] == "Training"
    status = job.wait_complete()
    assert {pod["metadata"]["uid"] for pod in job.pods()} == members
    assert (status["lastSerial"], status["progress"]["step"]) == (2, status["progress"]["totalSteps"])
    assert status["output"]["sha256"]
    assert status["restarts"].get("crashes", 0) == status["restarts"].get("disruptions", 0) == 0


def fetch_adapter(job: Job, team: Team, s3: Any, folder: Path) -> Path:
    prefix = job.status["output"]["uri"].removeprefix(f"s3://{team.bucket}/")
    return fetch_folder(s3, team.bucket, prefix.rstrip("/") + "/", folder)


def fetch_folder(s3: Any, bucket: str, prefix: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        s3.download_file(bucket, entry["Key"], str(folder / entry["Key"].removeprefix(prefix)))
    return folder


def json_lines(s3: Any, bucket: str, key: str) -> list[JsonObject]:
    text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    return [json.loads(line) for line in text.splitlines()]


def encode(adapter: Path, row: JsonObject) -> tuple[Any, Any]:
    """(1, T) tokens and labels of one row: loss on what the assistant says, as anybody would compute it."""
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    encoded = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt")
    is_said = torch.as_tensor(encoded["assistant_masks"]).bool().reshape(1, -1)
    ids = encoded["input_ids"][:, :256]
    return ids, ids.masked_fill(~is_said[:, :256], -100)


def load_with_peft(adapter: Path, base: Path) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()


def peft_loss(adapter: Path, base: Path, rows: list[JsonObject]) -> float:
    """Mean over all tokens with loss: plain transformers and peft, no code of ours."""
    model, total, count = load_with_peft(adapter, base), 0.0, 0
    for row in rows:
        ids, labels = encode(adapter, row)
        num_targets = int((labels[:, 1:] != -100).sum())
        if num_targets:
            with torch.no_grad():
                total += float(model(input_ids=ids, labels=labels).loss) * num_targets
            count += num_targets
    return total / count


def peft_logits(adapter: Path, base: Path, row: JsonObject) -> Any:
    with torch.no_grad():
        return load_with_peft(adapter, base)(input_ids=encode(adapter, row)[0]).logits


def trainer_logits(adapter: Path, base: Path, row: JsonObject) -> Any:
    """The same weights in the trainer's own linear layers and attention."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=ATTENTION)
    shape = json.loads((adapter / "adapter_config.json").read_text())
    config = AdapterConfig(rank=shape["r"], alpha=shape["lora_alpha"], dropout=0.0, target_modules=tuple(shape["target_modules"]))
    add_adapters(model, config, FAMILIES[model.config.model_type])
    weights = load_file(adapter / "adapter_model.safetensors")
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            parameter.copy_(weights[f"base_model.model.{name}.weight"])
        ids = encode(adapter, row)[0]
        return model.eval()(input_ids=ids, segment_lengths=(ids.shape[1],)).logits
