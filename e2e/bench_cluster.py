"""The figures that need a cluster, as one table. Called by bench.py; pytest brings the cluster up as for the tests."""

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.bench import Row, render
from e2e.fixtures import Product
from e2e.harness.home import find_home
from e2e.harness.images import ImageBuilder, Images
from e2e.product import Job, Team, wait_until

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seconds since `kubectl apply` was called."""

    pods_running: float
    first_step: float


def test_bench(product: Product, team: Team, images: Images) -> None:
    starts = [measure_start(team, number) for number in range(REPEATS)]
    running, first = ([getattr(start, name) for start in starts] for name in ("pods_running", "first_step"))
    builder = ImageBuilder(find_home())
    rows: list[Row] = [
        (f"kubectl apply to the first optimizer step, n={REPEATS}", shown(first), "<= 12 s"),
        ("of it until all pods run", shown(running), "<= 2 s"),
        ("operator image above its base", f"{builder.layout.size_bytes(images.operator, without_lowest=True) / 1e6:.0f} MB", "<= 120 MB"),
        ("operator RSS, idle", f"{operator_rss_bytes(product) / 2**20:.0f} MiB", "<= 120 MiB"),
    ]
    sys.stdout.write(f"\n{render(rows)}")


def measure_start(team: Team, number: int) -> Start:
    name, started = f"bench-{number}", time.monotonic()
    job = team.submit(name)
    wait_until("two running pods", lambda: num_running(job) == 2, deadline_seconds=60, every_seconds=0.05)
    pods_running = time.monotonic() - started
    wait_until("the first step", lambda: job.step() > 0, deadline_seconds=120, every_seconds=0.05)
    first_step = time.monotonic() - started
    job.delete()
    wait_until("no pods", lambda: not team.kubectl.items("pods"), deadline_seconds=90)
    return Start(pods_running=pods_running, first_step=first_step)


def num_running(job: Job) -> int:
    return sum(pod["status"]["phase"] == "Running" for pod in job.pods())


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


def operator_rss_bytes(product: Product) -> int:
    uid = product.operator_pods()[0]["metadata"]["uid"]
    return max((rss_bytes(folder) for folder in processes_of(uid)), default=0) or pytest.fail("no process of the operator's pod")


def processes_of(pod_uid: str) -> Iterator[Path]:
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and any(uid in (folder / "cgroup").read_text() for uid in (pod_uid, pod_uid.replace("-", "_"))):
                yield folder
        except OSError:
            continue


def rss_bytes(folder: Path) -> int:
    lines = (folder / "status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
