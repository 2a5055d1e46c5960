"""Orders, and formations that are run to their end or to a kill: what the tests of the trainer share."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.builders.machine import HANG_SECONDS

from finetune_contract.config import CONTRACT_VERSION, JobConfig, JobIdentity
from finetune_contract.orders import Overrides
from finetune_contract.run_order import RunOrder
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.render_config import render_config

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "tests" / "data" / "rows.jsonl"  # those of examples/ change with every new field: recorded numbers must not
NUM_STEPS = 6
# Uneven on purpose: packs of several lengths, and numbers of packs that three ranks do not divide.
TRAINING = {
    "epochs": 100,
    "maxSteps": NUM_STEPS,
    "globalBatchSize": 8,
    "maxSequenceLength": 96,
    "learningRate": 0.01,
    "precision": "fp32",
    "gradientCheckpointing": False,
}


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def a_config(model: Path, rows: Path, **changes) -> JobConfig:
    """A healthy job's config; `changes` are sections of the spec, merged."""
    spec = {
        "model": {"uri": f"file://{model}"},
        "dataset": {"uri": f"file://{rows}"},
        "adapter": {"rank": 4, "alpha": 8},
        "training": TRAINING,
        "checkpoint": {"uri": "file:///nowhere/checkpoints"},
        "output": {"uri": "file:///nowhere/adapter"},
    }
    for section, change in changes.items():
        spec[section] = {**spec[section], **change}
    config = render_config(FineTuneJob.model_validate({"metadata": {"name": "tiny"}, "spec": spec}))
    identity = JobIdentity(name="tiny", namespace="default", uid="1")
    return config.model_copy(update={"job": identity, "contract_version": CONTRACT_VERSION})


def an_order(config: JobConfig, folder: Path, **changes) -> RunOrder:
    """One member's order; digests of the inputs are made up, the trainer only carries them."""
    fields = {
        "config": config,
        "overrides": Overrides(),
        "formation": 1,
        "node_rank": 0,
        "num_nodes": 1,
        "processes_per_node": 1,
        "master_address": "127.0.0.1",
        "master_port": 1,
        "model_dir": config.model.uri.removeprefix("file://"),
        "dataset_files": [config.dataset.uri.removeprefix("file://")],
        "eval_files": [],
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "adapter"),
        "model_digest": "m",
        "dataset_digest": "d",
        "model_revision": None,
        "slots_fd": None,
        "beat_fd": None,
        "events_fd": None,
        "store_secret": "the secret of the formation",
    }
    return RunOrder.model_validate(fields | changes)


@dataclass(kw_only=True)
class Ended:
    """What a formation left behind."""

    statuses: list[int]
    events: list[dict]
    folder: Path
    adapter_sha256: str = ""

    def of(self, kind: str) -> list[dict]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def losses(self) -> list[float]:
        """By step; a step that was evaluated is told twice."""
        return list({event["progress"]["step"]: event["progress"]["loss"] for event in self.of("progress")}.values())

    @property
    def failure(self) -> dict:
        """The first report of a rank: later ones only say that a peer was lost."""
        return self.of("failure")[0]["report"]

    @property
    def is_complete(self) -> bool:
        return not any(self.statuses) and len(self.of("done")) == len(self.statuses)


@dataclass(kw_only=True)
class Formations:
    """Runs formations, one after another. Slots of node rank i lie in a file of the run's folder, so that they outlive a formation."""

    process: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        here = os.pathsep.join(str(ROOT / folder) for folder in ("", "operator", "trainer-image"))  # not another tree's installed code
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": here}
        command = [sys.executable, "-m", "tests.trainer.gang"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True)

    def run(self, config: JobConfig, folder: Path, *, nodes: int = 1, processes: int = 1, kill_at: int | None = None, **order) -> Ended:
        """Train as `nodes` members with `processes` ranks each, until all have ended."""
        folder.mkdir(parents=True, exist_ok=True)
        orders = [
            an_order(config, folder, node_rank=node, num_nodes=nodes, processes_per_node=processes, **order).model_dump_json()
            for node in range(nodes)
        ]
        events_file = folder / "events.jsonl"
        slots = [str(folder / f"slots-{node}") for node in range(nodes)]
        request = {"orders": orders, "slots": slots, "events": str(events_file), "kill_at": kill_at}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        statuses = json.loads(self.process.stdout.readline())
        events = [json.loads(line) for line in events_file.read_text().splitlines()]
        ended = Ended(statuses=statuses, events=events, folder=folder)
        weights = folder / "adapter" / "adapter_model.safetensors"
        if ended.is_complete:
            ended.adapter_sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        return ended

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(timeout=HANG_SECONDS) != 0:
            os.killpg(self.process.pid, signal.SIGKILL)
