"""The peer of the recovery benchmark: plain torchrun, two launchers, dynamic rendezvous, the best settings that were found.

The training script is an ordinary one: transformers, peft, all-reduced gradients, a checkpoint to disk every 20 steps.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.builders.ports import unused_port

STEPS_BETWEEN_CHECKPOINTS = 20
TRAIN = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

folder, every = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "qwen3"), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=1e-3)
step, saved = 0, folder / "peer.pt"
if saved.exists():
    state = torch.load(saved)
    set_peft_model_state_dict(model, state["adapter"])
    optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
with open(folder / "peer.log", "a") as log:
    log.write(f"pid {os.environ['RANK']} {os.getpid()}\\n")
while True:
    ids = torch.randint(0, 500, (8, 64), generator=torch.Generator().manual_seed(step))
    model(input_ids=ids, labels=ids).loss.backward()
    flat = torch.cat([p.grad.reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    offset = 0
    for p in parameters:
        p.grad = flat[offset : offset + p.numel()].view_as(p) / dist.get_world_size()
        offset += p.numel()
    optimizer.step()
    optimizer.zero_grad()
    step += 1
    if dist.get_rank() == 0:
        with open(folder / "peer.log", "a") as log:
            log.write(f"step {step} {time.time()}\\n")
        if step % every == 0:
            state = {"adapter": get_peft_model_state_dict(model), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, saved.with_suffix(".partial"))
            saved.with_suffix(".partial").replace(saved)
"""


def measure_torchrun(folder: Path, repeats: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(seconds to the next step, steps computed again) after each kill -9 of one worker."""
    script, log = folder / "peer.py", folder / "peer.log"
    script.write_text(TRAIN)
    seconds, lost = [], []
    for _ in range(repeats):
        for stale in (log, folder / "peer.pt"):
            stale.unlink(missing_ok=True)
        launchers = launch(script, folder)
        try:
            before = wait_for_step(log, lambda step, _at: step >= 30)
            victim = newest_pid(log, rank=1)
            killed_at = time.time()
            os.kill(victim, signal.SIGKILL)
            after = wait_for_step(log, lambda _step, at, moment=killed_at + 0.5: at > moment)
            seconds.append(after[1] - killed_at)
            lost.append(max(0, max(before[0], last_step_before(log, killed_at + 0.5)) - after[0] + 1))
        finally:
            end(launchers)
    return tuple(seconds), tuple(lost)


def launch(script: Path, folder: Path) -> list[subprocess.Popen[bytes]]:
    """Two launchers; a store of its own for each restart and quick monitoring are the best settings known."""
    port = unused_port()
    # torchrun leaves its own temporary folder behind when it is ended
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    flags = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "100", "--monitor-interval", "0.1"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "peer"]
    command = [sys.executable, "-m", "torch.distributed.run", *flags, *meeting, str(script), str(folder), str(STEPS_BETWEEN_CHECKPOINTS)]
    quiet = subprocess.DEVNULL
    return [subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True) for _ in range(2)]


def wait_for_step(log: Path, is_wanted, deadline_seconds: float = 90) -> tuple[int, float]:
    end_at = time.monotonic() + deadline_seconds
    while time.monotonic() < end_at:
        for step, at in steps(log):
            if is_wanted(step, at):
                return step, at
        time.sleep(0.02)
    raise TimeoutError(f"torchrun made no step within {deadline_seconds:.0f} s")


def steps(log: Path) -> list[tuple[int, float]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[1]), float(line.split()[2])) for line in lines if line.startswith("step") and len(line.split()) == 3]


def last_step_before(log: Path, moment: float) -> int:
    return max((step for step, at in steps(log) if at <= moment), default=0)


def newest_pid(log: Path, *, rank: int) -> int:
    return [int(line.split()[2]) for line in log.read_text().splitlines() if line.startswith(f"pid {rank} ")][-1]


def end(launchers: list[subprocess.Popen[bytes]]) -> None:
    """Launchers pass SIGTERM on to their workers, which lead groups of their own."""
    for launcher in launchers:
        launcher.terminate()
    for launcher in launchers:
        try:
            launcher.wait(timeout=40)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()
