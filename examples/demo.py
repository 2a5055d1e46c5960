"""`make demo`: trains one LoRA adapter twice on this machine, kills a worker of the second run half way, and compares the bytes.

It proves on the spot what the README promises; its exit code is 1 if a promise does not hold. No network, no root, no Kubernetes.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent
ROWS = EXAMPLES / "support" / "rows.jsonl"
NUM_MEMBERS = 2
EVERY_HELD_OUT = 10  # each 10th row is held out
RUN_SECONDS = 240.0

sys.path.insert(0, str(EXAMPLES.parent))

import yaml  # noqa: E402
from examples.make_tiny_model import make_tiny_model  # noqa: E402
from rich.console import Console  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from finetune_contract.plurals import counted  # noqa: E402
from finetune_operator.api.job import API_VERSION, KIND, FineTuneJob  # noqa: E402
from finetune_operator.api.status import JobStatus  # noqa: E402
from finetune_operator.local.folders import make_folders  # noqa: E402
from finetune_operator.local.local_run import LocalRun, SystemClock  # noqa: E402
from finetune_operator.local.prepare import identify  # noqa: E402
from finetune_operator.local.screen import LiveScreen, PlainScreen, Screen, redraw, render_event  # noqa: E402
from finetune_operator.local.view import view_run  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One finished run. `killed_at`: the step at which a worker was killed, None if none was."""

    folder: Path
    status: JobStatus
    seconds: float
    killed_at: int | None

    @property
    def sha256(self) -> str:
        return "" if self.status.output is None else self.status.output.sha256


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def split_rows(folder: Path) -> tuple[int, int]:
    """Write train.jsonl and held-out.jsonl; their numbers of rows."""
    rows = ROWS.read_text().splitlines(keepends=True)
    held_out = rows[::EVERY_HELD_OUT]
    train = [row for number, row in enumerate(rows) if number % EVERY_HELD_OUT]
    (folder / "train.jsonl").write_text("".join(train))
    (folder / "held-out.jsonl").write_text("".join(held_out))
    return len(train), len(held_out)


def make_document(folder: Path, output: Path, *, if_exists: str = "Fail") -> dict[str, Any]:
    """The job of both runs, as a user would write it; only identity and output place differ."""
    spec = {
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"uri": f"file://{folder}/train.jsonl", "evalUri": f"file://{folder}/held-out.jsonl"},
        "adapter": {"rank": 8, "alpha": 16},
        "training": {
            "epochs": 3,
            "learningRate": 0.01,
            "globalBatchSize": 16,
            "maxSequenceLength": 256,
            "precision": "fp32",
            "gradientCheckpointing": False,
        },
        "resources": {"nodes": {"min": NUM_MEMBERS, "max": NUM_MEMBERS}},
        "checkpoint": {"uri": f"file://{folder}/checkpoints", "minIntervalSeconds": 1},
        "output": {"uri": f"file://{output}", "ifExists": if_exists},
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "support-bot"}, "spec": spec}


def make_job(folder: Path, output: Path) -> FineTuneJob:
    job = FineTuneJob.model_validate(make_document(folder, output))
    return identify(job, uid=str(uuid.uuid4()), now=SystemClock().now())


async def train(folder: Path, name: str, environment: Mapping[str, str], *, kills_a_worker: bool) -> Trained:
    """One run from submit to end."""
    started, output = time.monotonic(), folder / f"adapter-{name}"
    console, killed_at = Console(), None
    screen: Screen = LiveScreen(console) if console.is_terminal else PlainScreen(say, time.monotonic)
    run = LocalRun(make_job(folder, output), folders=make_folders(folder / f"run-{name}"), environment=environment)
    drawing = asyncio.create_task(redraw(screen, lambda: view_run(run.job, run.sessions, _last_event(run))))
    try:
        async with run:
            if kills_a_worker:
                killed_at = await _kill_half_way(run)
            status = await run.wait_end(deadline_seconds=RUN_SECONDS)
    finally:
        drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drawing
        screen.show(view_run(run.job, run.sessions, _last_event(run)))
        screen.close()
    return Trained(folder=output, status=status, seconds=time.monotonic() - started, killed_at=killed_at)


def _last_event(run: LocalRun) -> str:
    return render_event(run.events[-1], SystemClock().now()) if run.events else ""


async def _kill_half_way(run: LocalRun) -> int:
    def is_half_way(run: LocalRun) -> bool:
        totals = [session.run.progress.total_steps for session in run.sessions if session.run.progress is not None]
        return bool(totals) and 2 * run.step >= max(totals)

    await run.wait_until("half of the steps", lambda run: run.status.is_ended or is_half_way(run), deadline_seconds=RUN_SECONDS)
    if not run.status.is_ended:
        run.kill_worker(run.members[-1])
    return run.step


def held_out_loss(model_folder: Path, adapter: Path | None, rows: Path) -> float:
    """Mean loss of what the assistant says in the rows: the base alone, or with the adapter as plain peft loads it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    warnings.filterwarnings("ignore", category=FutureWarning)  # between peft and transformers; nothing a reader of the proof can act on

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    total, count = 0.0, 0
    for line in rows.read_text().splitlines():
        messages = json.loads(line)["messages"]
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt")
        is_said = torch.as_tensor(encoded["assistant_masks"]).bool().reshape(1, -1)
        labels = encoded["input_ids"].masked_fill(~is_said, -100)
        with torch.no_grad():
            loss = model(input_ids=encoded["input_ids"], labels=labels).loss
        num_targets = int((labels[:, 1:] != -100).sum())
        total, count = total + float(loss) * num_targets, count + num_targets
    return total / count


def broken_promises(undisturbed: Trained, disturbed: Trained, base_loss: float, adapter_loss: float) -> list[str]:
    """What does not hold; empty if all is well."""
    progress = disturbed.status.progress
    recovery = disturbed.status.recoveries[-1] if disturbed.status.recoveries else None
    promises = {
        "both runs complete": undisturbed.status.is_true("Complete") and disturbed.status.is_true("Complete"),
        "the loss falls": progress is not None and progress.first_loss is not None and progress.loss < progress.first_loss,
        "a worker was killed and training resumed past step 0": recovery is not None and bool(recovery.resumed_step),
        "both adapters have the same bytes": bool(undisturbed.sha256) and undisturbed.sha256 == disturbed.sha256,
        "peft's adapter lowers the loss on held-out rows": adapter_loss < base_loss,
    }
    return [promise for promise, holds in promises.items() if not holds]


def show_proof(undisturbed: Trained, disturbed: Trained, base_loss: float, adapter_loss: float) -> None:
    progress, recoveries = disturbed.status.progress, disturbed.status.recoveries
    if progress is not None and progress.first_loss is not None:
        say(f"   loss      {progress.first_loss:.3f} -> {progress.loss:.3f} in {counted(progress.step, 'step')}")
    say(f"   held out  {base_loss:.3f} with the base, {adapter_loss:.3f} with the adapter, loaded by plain peft")
    for recovery in recoveries:
        took = "" if recovery.total_seconds is None else f" within {recovery.total_seconds:.1f} s"
        say(f"   resumed   at step {recovery.resumed_step}{took}; the worker was killed near step {disturbed.killed_at}")
    sign = "=" if undisturbed.sha256 == disturbed.sha256 else "!="
    say(f"   adapter   sha256 {disturbed.sha256[:16]} {sign} {undisturbed.sha256[:16]} of the undisturbed run")


def show_places(folder: Path, disturbed: Trained) -> None:
    say(f"   adapter   {disturbed.folder}")
    say(f"   model     {folder / 'model'}")
    say(f"   runs      {folder / 'run-undisturbed'} and {folder / 'run-disturbed'}: status.yaml, events.log, logs/")
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(make_document(folder, folder / "adapter-yours", if_exists="Overwrite"), sort_keys=False))
    command = Path(os.path.relpath(sys.executable)).parent / "finetune"
    say("\n   Next: change a copy of this job to your model and rows, then take it to a cluster")
    say(f"     {command} validate --local {os.path.relpath(job)}")
    say(f"     {command} run {os.path.relpath(job)} --members 2")
    say("     docs/getting-started.md")


def main() -> int:
    started = time.monotonic()
    folder = EXAMPLES.parent / ".demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    transformers_logging.disable_progress_bar()
    say("\n1. A tiny Qwen3 with random weights, its tokenizer and chat template")
    make_tiny_model(folder / "model")
    num_train, num_held_out = split_rows(folder)
    say(f"   {counted(num_train, 'row')} to train on, {num_held_out} held out, from {ROWS.relative_to(EXAMPLES.parent)}")
    say(f"\n2. A LoRA adapter with {NUM_MEMBERS} members, undisturbed")
    undisturbed = asyncio.run(train(folder, "undisturbed", os.environ, kills_a_worker=False))
    say("\n3. The same again, with kill -9 of a worker half way")
    disturbed = asyncio.run(train(folder, "disturbed", os.environ, kills_a_worker=True))
    say("\n4. Proof")
    for trained in (undisturbed, disturbed):
        if not trained.status.is_true("Complete"):
            ending = trained.status.condition("Failed")
            say(f"   a run did not complete: {'no answer' if ending is None else ending.message}")
            return 1
    base_loss = held_out_loss(folder / "model", None, folder / "held-out.jsonl")
    adapter_loss = held_out_loss(folder / "model", disturbed.folder, folder / "held-out.jsonl")
    show_proof(undisturbed, disturbed, base_loss, adapter_loss)
    broken = broken_promises(undisturbed, disturbed, base_loss, adapter_loss)
    for promise in broken:
        say(f"   BROKEN    {promise}")
    say(f"\n5. Where everything lies ({time.monotonic() - started:.0f} s in all)")
    show_places(folder, disturbed)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
