"""What snapshots, uploads and the canonical sum cost training: `python -m tests.faults.bench_training` prints tables.

Snapshots: the real loop and a real uploader process; the loop's `Snapshots` is watched from outside, and switched off in every second
step of one run over equal rows, so that other work on the machine meets both sides alike. The sum: the ranks of one gloo group.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.make_tiny_model import make_tiny_model
from tests.builders.ports import unused_port
from tests.trainer.formations import ROOT, a_config, an_order

from finetune_agent.uploading.messages import Follow
from finetune_contract.config import JobConfig
from finetune_contract.run_order import RunOrder
from finetune_contract.state import RunRecord
from finetune_contract.values import render_message

HIDDEN_SIZE, NUM_LAYERS, RANK = 512, 4, 52  # 1.7 M adapter weights: 20 MB of state
DEFAULT_INTERVAL_SECONDS = 10.0
ROWS = ROOT / "examples" / "support" / "rows.jsonl"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: what was measured, and the figures in words."""

    name: str
    p50: str
    p95: str
    n: int

    def render(self) -> str:
        return f"| {self.name} | {self.n} | {self.p50} | {self.p95} |"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step as the loop lived it. `is_on`: the snapshot of the step before was written beside it."""

    is_on: bool
    tokens: int
    seconds: float
    blocked_seconds: float


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A run that was watched. `uploader_share`: CPU seconds of the uploader per second."""

    steps: list[Step]
    uploader_share: float


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


# --- snapshots -------------------------------------------------------------------------------------------------------


def measure_snapshots(folder: Path, *, seconds: float) -> list[Row]:
    """Blocked milliseconds with uploads back to back, then the cost in tokens/s at the default interval; it gets most of the time."""
    make_tiny_model(folder / "model", hidden_size=HIDDEN_SIZE, num_layers=NUM_LAYERS)
    busy = train_watched(folder / "busy", folder / "model", interval_seconds=0.0, every=1, seconds=seconds / 4)
    blocked = [1000 * step.blocked_seconds for step in busy.steps]
    paired = train_watched(folder / "paired", folder / "model", interval_seconds=DEFAULT_INTERVAL_SECONDS, every=2, seconds=3 * seconds / 4)
    costs = costs_of(paired.steps)
    low, high = median_interval(costs)
    in_words = "cost of a snapshot in tokens/s, every second step with one (beside the median: where 95 % of medians lie)"
    median, p95 = f"{quantile(blocked, 0.5):.2f} ms", f"{quantile(blocked, 0.95):.2f} ms"
    return [
        Row(name="training thread blocked per step, uploads back to back", p50=median, p95=p95, n=len(blocked)),
        Row(name=in_words, p50=f"{statistics.median(costs):+.2%}", p95=f"{low:+.2%} to {high:+.2%}", n=len(costs)),
        Row(name="the uploader at the default interval, share of one core", p50=f"{paired.uploader_share:.2%}", p95="-", n=1),
    ]


def costs_of(steps: list[Step]) -> list[float]:
    """Share of tokens/s lost in each step with a snapshot beside it, against the mean of the steps without before and after it."""
    speeds = [step.tokens / step.seconds for step in steps]
    return [
        1 - speeds[index] / statistics.mean((speeds[index - 1], speeds[index + 1]))
        for index in range(1, len(steps) - 1)
        if steps[index].is_on and not steps[index - 1].is_on and not steps[index + 1].is_on
    ]


def median_interval(values: list[float]) -> tuple[float, float]:
    """Order statistics between which the median lies in 95 of 100 cases, whatever the distribution."""
    ordered, half_width = sorted(values), 0.98 * math.sqrt(len(values))
    middle = (len(values) - 1) / 2
    return ordered[max(0, math.floor(middle - half_width))], ordered[min(len(values) - 1, math.ceil(middle + half_width))]


def train_watched(folder: Path, model: Path, *, interval_seconds: float, every: int, seconds: float) -> Watch:
    """Train as one rank for so long, with a snapshot in every so many steps and an uploader that follows."""
    folder.mkdir()
    rows = folder / "equal.jsonl"  # of one length: a step with short rows makes fewer tokens a second
    rows.write_text(f"{ROWS.read_text().splitlines()[0]}\n" * 400)
    config = a_config(
        model,
        rows,
        adapter={"rank": RANK, "alpha": RANK},
        training={"maxSteps": 100_000, "epochs": 1000, "globalBatchSize": 4, "maxSequenceLength": 128, "learningRate": 1e-4},
        checkpoint={"uri": f"file://{folder}/checkpoints", "minIntervalSeconds": interval_seconds},
    )
    slots_fd = os.memfd_create("finetune-slots")
    order = an_order(config, folder, slots_fd=slots_fd, master_port=unused_port())
    (folder / "order.json").write_text(order.model_dump_json())
    log = folder / "steps.jsonl"
    with an_uploader(folder, config, slots_fd) as uploader:
        command = [sys.executable, "-m", "tests.faults.bench_training", "--watched", str(folder), "--every", str(every)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        trainer = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=(slots_fd,), stdout=subprocess.DEVNULL)
        try:
            wait_for(log)
            before = cpu_seconds(uploader)
            time.sleep(seconds)
            uploader_share = (cpu_seconds(uploader) - before) / seconds
            assert trainer.poll() is None, "the trainer ended"
        finally:
            trainer.kill()
            trainer.wait()
        assert any((folder / "checkpoints").rglob("*.json")), "nothing was uploaded"
    os.close(slots_fd)
    lines = log.read_text().splitlines()
    steps = [Step(**json.loads(line)) for line in lines[3:-1]]  # without warm-up and what the kill cut off
    return Watch(steps=steps, uploader_share=uploader_share)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")  # its own and its children's, user and system


@contextmanager
def an_uploader(folder: Path, config: JobConfig, slots_fd: int) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "config.json").write_text(config.model_dump_json())
    names = ("CHANNEL", "TOKEN", "WORK_DIR", "STATE_DIR")
    environment = os.environ | {f"FINETUNE_{name}": str(folder) for name in names}
    environment |= {"FINETUNE_CONFIG": str(folder / "config.json"), "FINETUNE_ADDRESS": "127.0.0.1"}
    environment |= {"FINETUNE_MEMBER_UID": "u", "FINETUNE_MEMBER_NAME": "bench"}
    command = [sys.executable, "-m", "finetune_agent.uploading", str(slots_fd), str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, pass_fds=(slots_fd,)) as uploader:
        assert uploader.stdin is not None
        uploader.stdin.write(render_message(Follow(formation=1)).encode() + b"\n")
        uploader.stdin.flush()
        try:
            yield uploader
        finally:
            uploader.kill()


def wait_for(file: Path, deadline_seconds: float = 120) -> None:
    end_at = time.monotonic() + deadline_seconds
    while not file.exists():
        assert time.monotonic() < end_at, f"{file} did not appear"
        time.sleep(0.1)


def run_watched(folder: Path, every: int) -> None:
    """In the trainer's process: the loop as it is, with a `Snapshots` that notes how long the training thread waits for it."""
    from finetune_trainer import loop
    from finetune_trainer.snapshots import Snapshots
    from finetune_trainer.worker import run_rank

    order = RunOrder.model_validate_json((folder / "order.json").read_text())
    log = os.open(folder / "steps.jsonl", os.O_WRONLY | os.O_CREAT)

    class Watched(Snapshots):
        blocked = last_at = 0.0
        last_tokens, was_on = 0, False

        def begin(self, record: RunRecord, then: Callable[[], None] | None = None) -> None:
            now = time.perf_counter()
            tokens, seconds = record.tokens_total - self.last_tokens, now - self.last_at
            step = Step(is_on=self.was_on, tokens=tokens, seconds=seconds, blocked_seconds=self.blocked)
            os.write(log, json.dumps(step.__dict__).encode() + b"\n")
            self.last_at, self.last_tokens, self.blocked = now, record.tokens_total, 0.0
            self.was_on = record.step % every == 0
            if self.was_on:
                super().begin(record, then)
            self.blocked += time.perf_counter() - now

        def wait(self) -> None:
            started = time.perf_counter()
            super().wait()
            self.blocked += time.perf_counter() - started

    loop.Snapshots = Watched  # type: ignore[misc]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(order.master_port)
    run_rank(order)


# --- the canonical sum -----------------------------------------------------------------------------------------------


def measure_sums(
    *, num_floats: int = 1_703_936, num_leaves: int = 8, repeats: int = 15, world_sizes: tuple[int, ...] = (1, 2, 3, 4)
) -> list[str]:
    """Rows of (ranks, canonical tree, plain all-reduce, ratio); medians of the slowest rank."""
    rows = []
    for world_size in world_sizes:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(unused_port()),
        }
        command = [sys.executable, "-m", "tests.faults.bench_training", "--sum", str(num_floats), str(num_leaves), str(repeats)]
        places = [environment | {"RANK": str(rank), "WORLD_SIZE": str(world_size)} for rank in range(world_size)]
        ranks = [subprocess.Popen(command, cwd=ROOT, env=place, stdout=subprocess.PIPE, text=True) for place in places]
        told = [json.loads(rank.communicate(timeout=300)[0]) for rank in ranks]
        tree, plain = (max(times[index] for times in told) for index in (0, 1))
        rows.append(f"| {world_size} | {tree:.0f} ms | {plain:.0f} ms | {tree / plain:.1f} |")
    return rows


def run_sum(num_floats: int, num_leaves: int, repeats: int) -> None:
    import torch
    import torch.distributed as dist

    from finetune_trainer.ranks import Ranks
    from finetune_trainer.reduce import own_leaves, sum_over_ranks, sum_own

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size, device = dist.get_rank(), dist.get_world_size(), torch.device("cpu")
    ranks = Ranks(rank=rank, local_rank=0, world_size=world_size, local_world_size=1, node_rank=rank)
    leaves = {
        leaf: torch.randn(num_floats, generator=torch.Generator().manual_seed(leaf)) for leaf in own_leaves(rank, world_size, num_leaves)
    }

    def tree() -> torch.Tensor:
        sums = sum_own(num_leaves, lambda leaf: leaves[leaf].clone(), ranks)
        return sum_over_ranks(sums, num_leaves, ranks, length=num_floats, device=device)

    def plain() -> torch.Tensor:
        total = torch.zeros(num_floats)
        for leaf in leaves.values():
            total += leaf
        dist.all_reduce(total)
        return total

    torch.testing.assert_close(tree(), plain())
    times: dict[str, list[float]] = {"tree": [], "plain": []}
    for _ in range(repeats):
        for name, add in (("tree", tree), ("plain", plain)):
            dist.barrier()
            started = time.perf_counter()
            add()
            times[name].append(1000 * (time.perf_counter() - started))
    sys.stdout.write(json.dumps([statistics.median(times["tree"]), statistics.median(times["plain"])]) + "\n")
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--watched", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--sum", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watched is not None:
        run_watched(arguments.watched, arguments.every)
        return 0
    if arguments.sum is not None:
        run_sum(*arguments.sum)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_snapshots(Path(folder), seconds=arguments.seconds)
    sys.stdout.write("| snapshots | n | p50 | p95 |\n|---|---|---|---|\n" + "".join(f"{row.render()}\n" for row in rows))
    sys.stdout.write("\n| ranks | canonical tree | plain all-reduce | ratio |\n|---|---|---|---|\n")
    sys.stdout.write("".join(f"{row}\n" for row in measure_sums()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
