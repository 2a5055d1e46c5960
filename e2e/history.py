"""All that ever was in a namespace, from watches: what a look at the end cannot tell, such as two pods for one place."""

import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.product import JsonObject, Kubectl

Place = tuple[str, int]  # uid of a job, and a serial or the number of a formation


@dataclass(frozen=True, kw_only=True)
class History:
    """Files that watches write to; read at any time."""

    jobs: Path
    pods: Path

    def pods_by_place(self) -> dict[Place, set[str]]:
        """Uids of all pods that were ever made for a serial."""
        found: dict[Place, set[str]] = defaultdict(set)
        for pod in versions(self.pods):
            labels = pod["metadata"]["labels"]
            if "finetune.dev/serial" in labels:
                found[labels["finetune.dev/job-uid"], int(labels["finetune.dev/serial"])].add(pod["metadata"]["uid"])
        return found

    def crews_by_formation(self) -> dict[Place, set[tuple[int, ...]]]:
        """Serials in node rank order, as status ever held them."""
        found: dict[Place, set[tuple[int, ...]]] = defaultdict(set)
        for job in versions(self.jobs):
            entry = job.get("status", {}).get("formation")
            if entry is not None:
                found[job["metadata"]["uid"], entry["number"]].add(tuple(entry["serials"]))
        return found

    def assert_one_of_each(self) -> None:
        """Never two pods for one place, never one number for two crews."""
        twice = {place: uids for place, uids in self.pods_by_place().items() if len(uids) > 1}
        assert not twice, f"more than one pod for a place: {twice}"
        changed = {formation: crews for formation, crews in self.crews_by_formation().items() if len(crews) > 1}
        assert not changed, f"more than one crew with one number: {changed}"
        assert self.crews_by_formation(), "the watch saw no formation"


@contextmanager
def recorded_history(kubectl: Kubectl) -> Iterator[History]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        history = History(jobs=folder / "jobs.json", pods=folder / "pods.json")
        watches = [start_watch(kubectl, "finetunejobs", history.jobs), start_watch(kubectl, "pods", history.pods)]
        try:
            yield history
            assert all(watch.poll() is None for watch in watches), "a watch ended early"
        finally:
            for watch in watches:
                watch.kill()
                watch.wait()


def start_watch(kubectl: Kubectl, kind: str, file: Path) -> subprocess.Popen[bytes]:
    command = ["kubectl", "--kubeconfig", str(kubectl.kubeconfig), "-n", kubectl.namespace, "get", kind, "--watch", "-o", "json"]
    with file.open("wb") as output:
        return subprocess.Popen(command, stdout=output)


def versions(file: Path) -> Iterator[JsonObject]:
    """Objects one after the other; one that is still being written is left out."""
    text, decoder, at = file.read_text(), json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        try:
            found, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            return
        yield found
        while at < len(text) and text[at].isspace():
            at += 1
