"""The product as its users meet it: installed by Helm, driven by kubectl, read from status and from S3."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]
RELEASE = "finetune"
SYSTEM = "finetune-system"


class NotReached(AssertionError):
    """Something that was waited for did not come; the message holds the last state seen."""


def wait_until(what: str, check: Callable[[], Any], *, deadline_seconds: float, every_seconds: float = 0.2) -> Any:
    """Poll `check` until it returns something true and return that. Raises NotReached with the last falsy answer."""
    end = time.monotonic() + deadline_seconds
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise NotReached(f"{what} did not come within {deadline_seconds:.0f} s; last: {answer!r}")
        time.sleep(every_seconds)


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """kubectl with one kubeconfig and, unless told otherwise, one namespace."""

    kubeconfig: Path
    namespace: str = "default"

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=check, timeout=120)

    def get(self, *what: str) -> JsonObject | None:
        """One object or list as JSON; None when it does not exist."""
        answer = self.run("get", *what, "-o", "json", "--ignore-not-found", check=False)
        if answer.returncode:
            raise NotReached(answer.stderr.strip())
        return json.loads(answer.stdout) if answer.stdout.strip() else None

    def items(self, *what: str) -> list[JsonObject]:
        found = self.get(*what)
        return found["items"] if found else []

    def apply(self, manifest: JsonObject) -> subprocess.CompletedProcess[str]:
        return self.run("apply", "-f", "-", stdin=json.dumps(manifest), check=False)

    def within(self, namespace: str) -> "Kubectl":
        return Kubectl(kubeconfig=self.kubeconfig, namespace=namespace)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One FineTuneJob on the cluster."""

    kubectl: Kubectl
    name: str

    @property
    def object(self) -> JsonObject:
        found = self.kubectl.get("finetunejob", self.name)
        if found is None:
            raise NotReached(f"FineTuneJob {self.name} does not exist")
        return found

    @property
    def status(self) -> JsonObject:
        status: JsonObject = self.object.get("status", {})
        return status

    def condition(self, name: str) -> JsonObject | None:
        return next((entry for entry in self.status.get("conditions", []) if entry["type"] == name), None)

    def is_true(self, name: str) -> bool:
        entry = self.condition(name)
        return entry is not None and entry["status"] == "True"

    def step(self) -> int:
        return int(self.status.get("progress", {}).get("step", 0))

    def pods(self) -> list[JsonObject]:
        return [
            pod for pod in self.kubectl.items("pods", "-l", f"finetune.dev/job={self.name}") if "deletionTimestamp" not in pod["metadata"]
        ]

    def live_pods(self) -> list[JsonObject]:
        return [pod for pod in self.pods() if pod.get("status", {}).get("phase") in {"Pending", "Running"}]

    def events(self) -> list[str]:
        """Reasons, oldest first."""
        found = self.kubectl.items("events.events.k8s.io", "--field-selector", f"regarding.name={self.name}")
        ordered = sorted(found, key=lambda event: event.get("eventTime") or event["metadata"]["creationTimestamp"])
        return [event["reason"] for event in ordered]

    def wait_phase(self, *phases: str, deadline_seconds: float = 120) -> str:
        def phase() -> str | None:
            now = self.status.get("phase")
            if now == "Failed" and "Failed" not in phases:
                raise NotReached(f"{self.name} failed: {self.condition('Failed')}")
            return now if now in phases else None

        return str(wait_until(f"{self.name} in {phases}", phase, deadline_seconds=deadline_seconds))

    def wait_complete(self, deadline_seconds: float = 240) -> JsonObject:
        """Wait for Complete and return the status."""
        self.wait_phase("Complete", deadline_seconds=deadline_seconds)
        return self.status

    def last_commit_step(self) -> int:
        return int(self.status.get("lastCommit", {}).get("step", 0))

    def delete(self) -> None:
        self.kubectl.run("delete", "finetunejob", self.name, "--wait=true", check=False)


def merge(section: JsonObject, change: JsonObject) -> JsonObject:
    """`change` over `section`; None removes a field."""
    return {name: value for name, value in (section | change).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Team:
    """A namespace with restricted Pod Security, S3 credentials, and buckets with models and data."""

    kubectl: Kubectl
    endpoint: str
    bucket: str
    jobs: list[Job] = field(default_factory=list)

    def manifest(self, name: str, **changes: Any) -> JsonObject:
        """A small healthy job on two members; `changes` are spec sections merged over it, None removes a section."""
        spec: JsonObject = {
            "model": {"uri": "s3://models/qwen3-tiny"},
            "dataset": {"uri": "s3://data/support.jsonl", "evalFraction": 0.05},
            "adapter": {"rank": 8, "alpha": 16},
            "training": {"epochs": 2, "globalBatchSize": 8, "maxSequenceLength": 256, "learningRate": 0.002, "precision": "fp32"},
            "resources": {
                "nodes": {"min": 2, "max": 2},
                "requests": {"cpu": "100m", "memory": "256Mi"},
                "limits": {"memory": "3Gi"},
            },
            "checkpoint": {"uri": f"s3://{self.bucket}/checkpoints/{name}", "minIntervalSeconds": 1},
            "output": {"uri": f"s3://{self.bucket}/adapters/{name}"},
            "storage": {"endpoint": self.endpoint, "secretName": "s3-credentials"},
        }
        for section, change in changes.items():
            if change is None:
                spec.pop(section, None)
            else:
                spec[section] = merge(spec.get(section, {}), change) if isinstance(change, dict) else change
        return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": spec}

    def submit(self, name: str, **changes: Any) -> Job:
        answer = self.kubectl.apply(self.manifest(name, **changes))
        if answer.returncode:
            raise NotReached(answer.stderr.strip())
        job = Job(kubectl=self.kubectl, name=name)
        self.jobs.append(job)
        return job
