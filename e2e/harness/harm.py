"""Harm to the self-built cluster that lasts for a block and is undone at its end: traffic dropped, processes stopped, images missing."""

import base64
import json
import os
import signal
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from e2e.harness.cluster import Cluster
from e2e.harness.controlplane import ETCD_URL
from e2e.harness.shell import run

TABLE = "finetune_harm"
KEPT_TAG = "localhost/kept:1"


@contextmanager
def dropped(cluster: Cluster, node: str, *packets: str) -> Iterator[None]:
    """What the node forwards to or from its pods is dropped where it matches one of `packets`, each an nftables expression."""
    entering = cluster.nodes[node].entering()
    rules = [f"add rule inet {TABLE} harm {expression} drop" for expression in packets]
    lines = [f"add table inet {TABLE}", f"add chain inet {TABLE} harm {{ type filter hook forward priority -10; }}", *rules]
    run(*entering, "nft", "-f", "-", stdin="\n".join(lines) + "\n")
    try:
        yield
    finally:
        run(*entering, "nft", "delete", "table", "inet", TABLE)


@contextmanager
def partitioned(cluster: Cluster, node: str, address: str, others: Iterable[str]) -> Iterator[None]:
    """The pod at `address` on `node` and those at `others`, all on other nodes, do not reach each other; everybody else reaches all."""
    both_ways = [f"ip saddr {one} ip daddr {other}" for peer in others for one, other in ((address, peer), (peer, address))]
    with dropped(cluster, node, *both_ways):
        yield


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Processes that stand still and whose peers notice nothing but silence."""
    stopped = tuple(pids)
    tell(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        tell(stopped, signal.SIGCONT)


def tell(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def frozen_pod(cluster: Cluster, node: str, pod_uid: str) -> Iterator[None]:
    pids = cluster.processes_in_pod(node, pod_uid)
    with frozen(pid for pid in pids if name_of(pid) != "pause"):
        yield


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


@contextmanager
def frozen_name_server(cluster: Cluster) -> Iterator[None]:
    """Questions are taken and never answered: worse than a refusal."""
    with frozen((cluster.processes.require("coredns"),)):
        yield


@contextmanager
def without_image(cluster: Cluster, node: str, image: str) -> Iterator[None]:
    """The name is gone from the node; the layers stay under another one, so that it is back at once."""
    containerd = cluster.nodes[node].containerd
    containerd.ctr("images", "tag", "--force", image, KEPT_TAG)
    containerd.ctr("images", "remove", image)
    try:
        yield
    finally:
        containerd.ctr("images", "tag", "--force", KEPT_TAG, image)
        containerd.ctr("images", "remove", KEPT_TAG)


def forget_history() -> int:
    """Compact etcd up to now: a watch that goes on from an older version is refused (410). Returns that version."""
    key = base64.b64encode(b"/").decode()
    version = int(_ask_etcd("kv/range", {"key": key})["header"]["revision"])
    _ask_etcd("kv/compaction", {"revision": str(version), "physical": True})
    return version


def _ask_etcd(path: str, question: dict[str, object]) -> dict[str, dict[str, str]]:
    request = urllib.request.Request(f"{ETCD_URL}/v3/{path}", data=json.dumps(question).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, dict[str, str]] = json.load(answer)
    return found
