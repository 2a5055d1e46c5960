"""Load of who has no right at all is paid by nobody else: other jobs' status stays quick, the operator small, training undisturbed."""

import json
import math
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pytest

from e2e.faults import LONGER, in_training
from e2e.fixtures import ROOT, Product
from e2e.floods import NUM_SOCKETS, TOKENS_A_SECOND
from e2e.harness.cluster import Cluster
from e2e.harness.shell import run
from e2e.product import JsonObject, Kubectl, NotReached, Team, wait_until

FLOOD_SECONDS = 40.0
MEASURED_SECONDS = 25.0
NUM_SOURCES = 40
STATUS_SECONDS = 1.0  # at the 99th percentile
MOST_BYTES = 512 * 1024**2  # the chart's limit of the operator
METRICS_PORT, CHANNEL_PORT = 8080, 8443


class Watch:
    """When each job of a namespace was first seen, and when first with a phase, as one watch tells it."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.seen: dict[str, float] = {}
        self.told: dict[str, float] = {}
        command = ["kubectl", "--kubeconfig", str(kubectl.kubeconfig), "-n", kubectl.namespace, "get", "finetunejobs", "--watch"]
        columns = "{.metadata.name}/{.status.phase}{'\\n'}"
        self.process = subprocess.Popen([*command, "-o", f"jsonpath={columns}"], stdout=subprocess.PIPE, text=True)
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            now, (name, _, phase) = time.monotonic(), line.strip().partition("/")
            self.seen.setdefault(name, now)
            if phase:
                self.told.setdefault(name, now)

    def seconds(self, names: list[str]) -> list[float]:
        """From the job to its phase, ascending; for ever if it has none yet."""
        return sorted(self.told.get(name, math.inf) - self.seen.get(name, 0.0) for name in names)


@contextmanager
def watched(kubectl: Kubectl) -> Iterator[Watch]:
    watch = Watch(kubectl)
    try:
        yield watch
    finally:
        watch.process.terminate()
        watch.process.wait(10)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """`p99`: seconds from a job to its phase; `most_bytes`: of the operator's memory."""

    num_jobs: int
    median: float
    p99: float
    most_bytes: float


def measure(team: Team, operator: JsonObject, what: str) -> Measured:
    """Suspended jobs, one after the other: each is told its phase and needs no pod."""
    names: list[str] = []
    most_bytes, end = 0.0, time.monotonic() + MEASURED_SECONDS
    with watched(team.kubectl) as watch:
        while time.monotonic() < end:
            names.append(team.submit(f"{what}-{len(names)}", suspend=True).name)
            most_bytes = max(most_bytes, resident_bytes(operator))
        with suppress(NotReached):
            wait_until("the last phase", lambda: watch.seconds(names)[-1] < math.inf, deadline_seconds=20)
        seconds = watch.seconds(names)
    return Measured(
        num_jobs=len(names), median=statistics.median(seconds), p99=seconds[math.ceil(0.99 * len(seconds)) - 1], most_bytes=most_bytes
    )


def resident_bytes(pod: JsonObject) -> float:
    """As the operator's own metrics tell it, through the same kind of door that is flooded."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:{METRICS_PORT}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes "))


@contextmanager
def flooded(cluster: Cluster, pod: JsonObject, figures: JsonObject) -> Iterator[None]:
    """From addresses of pods of another node; what came of it is put into `figures`."""
    node = next(node for name, node in cluster.nodes.items() if name != pod["spec"]["nodeName"])
    prefix = node.place.pod_network.rpartition(".")[0]
    sources = [f"{prefix}.{last}" for last in range(200, 200 + NUM_SOURCES)]
    run(*node.entering(), "ip", "-batch", "-", stdin="\n".join(f"addr add {source}/32 dev lo" for source in sources))
    arguments = [pod["status"]["podIP"], str(CHANNEL_PORT), str(FLOOD_SECONDS), ",".join(sources)]
    command = [*node.entering()[:-1], f"--wd={ROOT}", sys.executable, "-m", "e2e.floods", *arguments]
    flood = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(3)  # the flood rises
        yield
        said, _ = flood.communicate(timeout=FLOOD_SECONDS + 60)
        figures |= json.loads(said)
    finally:
        flood.kill()
        flood.wait()
        run(*node.entering(), "ip", "-batch", "-", stdin="\n".join(f"addr del {source}/32 dev lo" for source in sources))


@pytest.mark.slow
def test_ten_thousand_sockets_and_false_tokens_delay_nobody(team: Team, product: Product, nodes_under_control: Cluster) -> None:
    job = in_training(team, "beside", training=LONGER)
    members = {pod["metadata"]["uid"] for pod in job.live_pods()}
    operator, flood = product.leader(), dict[str, Any]()
    calm = measure(team, operator, "calm")
    with flooded(nodes_under_control, operator, flood):
        beside = measure(team, operator, "beside")
    print(f"calm {calm}\nbeside {beside}\n{flood}")
    assert flood["sockets opened"] + flood["sockets refused"] >= NUM_SOCKETS, flood
    assert flood["tokens sent"] >= 20 * TOKENS_A_SECOND / 2, flood
    assert beside.p99 <= STATUS_SECONDS, (calm, beside, flood)
    assert beside.most_bytes <= MOST_BYTES, (beside, flood)
    status = job.wait_complete()
    assert set(status["formation"]["uids"]) == members, "no member was lost"
    assert product.leader()["metadata"]["uid"] == operator["metadata"]["uid"]
    assert product.leader()["status"]["containerStatuses"][0]["restartCount"] == 0
