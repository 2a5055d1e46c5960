"""Small jobs for local runs, and the command line as its users meet it."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import uuid
from pathlib import Path

import yaml
from tests.builders.machine import HANG_SECONDS

from finetune_operator.api.job import FineTuneJob
from finetune_operator.local.folders import make_folders
from finetune_operator.local.local_run import LocalRun, SystemClock
from finetune_operator.local.prepare import identify
from finetune_operator.local.proc import processes_in

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "tests" / "data" / "rows.jsonl"
NAME = "tiny"
NUM_STEPS = 96  # long enough that half way is told before the end: progress comes twice a second


def write_rows(path: Path, count: int = 48) -> Path:
    path.write_text("".join(ROWS.read_text().splitlines(keepends=True)[:count]))
    return path


def a_document(folder: Path, *, model: Path, rows: Path, **changes) -> dict:
    """A healthy job whose results lie below `folder`; `changes` are sections of the spec, merged."""
    spec = {
        "model": {"uri": f"file://{model}"},
        "dataset": {"uri": f"file://{rows}"},
        "adapter": {"rank": 4, "alpha": 8},
        "training": {
            "epochs": 100,
            "maxSteps": NUM_STEPS,
            "globalBatchSize": 8,
            "maxSequenceLength": 128,
            "learningRate": 0.01,
            "precision": "fp32",
            "gradientCheckpointing": False,
        },
        "resources": {"nodes": {"min": 2, "max": 2}},
        "checkpoint": {"uri": f"file://{folder}/checkpoints", "minIntervalSeconds": 0.2},
        "output": {"uri": f"file://{folder}/adapter"},
    }
    for section, change in changes.items():
        spec[section] = {**spec.get(section, {}), **change}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": NAME}, "spec": spec}


def a_run(folder: Path, document: dict, **environment: str) -> LocalRun:
    job = identify(FineTuneJob.model_validate(document), uid=str(uuid.uuid4()), now=SystemClock().now())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FINETUNE_"))}
    return LocalRun(job, folders=make_folders(folder / "work"), environment=kept | environment)


def adapter_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def reasons(run: LocalRun) -> list[str]:
    return [event.reason for event in run.events]


class Command:
    """`finetune run` as a process of its own."""

    def __init__(self, folder: Path, document: dict | str, *arguments: str) -> None:
        self.folder, self.work = folder, folder / "work"
        self.file = folder / "job.yaml"
        self.file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        self._arguments = ("run", str(self.file), "--work-dir", str(self.work), *arguments)
        self.child: asyncio.subprocess.Process | None = None

    async def begin(self) -> "Command":
        program = "import sys; from finetune_operator.cli import main; sys.exit(main())"
        self.child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return self

    async def until_event(self, reason: str, deadline_seconds: float = HANG_SECONDS) -> None:
        async with asyncio.timeout(deadline_seconds):
            while reason not in self.events():
                assert self.child.returncode is None, await self.end()
                await asyncio.sleep(0.05)

    def events(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.work / "events.log").read_text()
        return ""

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    async def end(self, deadline_seconds: float = HANG_SECONDS) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        async with asyncio.timeout(deadline_seconds):
            said, complained = await self.child.communicate()
        return self.child.returncode, said.decode(), complained.decode()

    def living(self) -> list[str]:
        return [entry.command for entry in processes_in(self.work / "members")]


def write_text_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
